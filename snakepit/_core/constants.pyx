# cython: language_level=3
"""Numbers that both sides write into shared memory, for code in Python; `layout.pxd` says what each is."""
cimport snakepit._core.layout as layout
cimport snakepit._core.segment_table as segment_table

CALL = layout.CALL
CALL_EACH = layout.CALL_EACH
CALL_STAR = layout.CALL_STAR
CHUNK = layout.CHUNK
FUNCTION_INSIDE = layout.FUNCTION_INSIDE
MAIL_CANCEL = layout.MAIL_CANCEL
MAIL_FAILED = layout.MAIL_FAILED
MAIL_RAN = layout.MAIL_RAN
MAIL_READY = layout.MAIL_READY
MAIL_SUBMIT = layout.MAIL_SUBMIT
MAIL_TOOL = layout.MAIL_TOOL
MAIL_UNFIT = layout.MAIL_UNFIT
MAIL_WANT = layout.MAIL_WANT
MAIL_WORN = layout.MAIL_WORN
MAX_CLIENTS = segment_table.MAX_CLIENTS
MAX_LANES = layout.MAX_LANES
