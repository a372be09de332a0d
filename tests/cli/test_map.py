"""What ``snakepit map`` makes of items, results and errors."""

import json

import pytest

from .command import Command

NUMBERS = b"".join(b"%d\n" % number for number in range(1, 11))


def test_results_come_in_the_order_of_the_input(command: Command) -> None:
    ended = command.map("functions:square", stdin=NUMBERS)
    assert (ended.code, ended.errors) == (0, "")
    assert ended.lines == [str(number**2) for number in range(1, 11)]


def test_many_items_come_out_as_they_went_in(command: Command) -> None:
    text = b"".join(b"line %d\n" % number for number in range(200_000))
    ended = command.map("functions:same", stdin=text)
    assert ended.code == 0
    assert ended.output == text


def test_unordered_results_are_complete(command: Command) -> None:
    ended = command.map("functions:square", "--unordered", stdin=NUMBERS)
    assert ended.code == 0
    assert sorted(map(int, ended.lines)) == [number**2 for number in range(1, 11)]


def test_local_profile_maps_in_threads_of_the_command(command: Command) -> None:
    process = command.start_map("functions:name_of_worker", "--profile", "local")
    output, _ = process.communicate(b"a\nb\n", timeout=60)
    assert output.split() == [str(process.pid).encode()] * 2


def test_process_profile_maps_in_other_processes(command: Command) -> None:
    process = command.start_map("functions:name_of_worker")
    output, _ = process.communicate(b"a\n", timeout=60)
    assert output.strip() not in (b"", str(process.pid).encode())


def test_attribute_path_is_followed(command: Command) -> None:
    assert command.map("functions:Group.shout", stdin=b"a\n").lines == ["A"]


def test_standard_library_function_is_found(command: Command) -> None:
    assert command.map("math:sqrt", "--json", stdin=b"4\n").lines == ["2.0"]


def test_files_are_read_one_after_the_other(command: Command) -> None:
    command.path("a.txt").write_text("1\n2\n")
    command.path("b.txt").write_text("3\n4")
    ended = command.map("functions:same", "b.txt", "-", "a.txt", stdin=b"5\n")
    assert ended.lines == ["3", "4", "5", "1", "2"]


def test_empty_input_gives_empty_output(command: Command) -> None:
    ended = command.map("functions:same")
    assert (ended.code, ended.output, ended.errors) == (0, b"", "")


def test_empty_lines_are_items(command: Command) -> None:
    assert command.map("functions:length", stdin=b"\n\na").lines == ["0", "0", "1"]


def test_carriage_return_before_the_newline_is_no_part_of_the_item(command: Command) -> None:
    assert command.map("functions:length", stdin=b"a\r\nb\rb\r\n").lines == ["1", "3"]


def test_none_is_an_empty_line(command: Command) -> None:
    assert command.map("functions:nothing", stdin=b"a\nb\n").output == b"\n\n"


def test_result_with_a_line_break_is_no_line(command: Command) -> None:
    ended = command.map("functions:unescape", stdin=b"a\nb\\nc\nd\\n\ne\n")
    assert (ended.code, ended.lines) == (1, ["a", "e"])
    assert ended.error_lines == [
        f"item {item} (-:{item}): ValueError: the result has a line break, and each is written as "
        "one line: use --json or --print0"
        for item in (2, 3)
    ]
    ended = command.map("functions:unescape", "--json", stdin=b'"a"\n"b\\nc"\n')
    assert (ended.code, ended.output) == (0, b'"a"\n"b\\nc"\n')


def test_results_end_with_a_nul_on_request(command: Command) -> None:
    ended = command.map("functions:unescape", "-0", stdin=b"a\nb\\nc\n\nd\\0\n")
    assert (ended.code, ended.output) == (1, b"a\0b\nc\0\0")
    assert ended.error_lines == [
        "item 4 (-:4): ValueError: the result has a NUL, which is what --print0 ends it with: "
        "use --json"
    ]
    ended = command.map("functions:nothing", "--print0", "--json", stdin=b"1\n2\n")
    assert (ended.code, ended.output) == (0, b"null\0null\0")


def test_huge_line_is_one_item(command: Command) -> None:
    size = 20_000_000
    ended = command.map("functions:length", stdin=b"x" * size + b"\nxy\n")
    assert ended.lines == [str(size), "2"]


def test_large_results_arrive_whole(command: Command) -> None:
    ended = command.map("functions:million", stdin=b"a\n" * 40)
    assert ended.output == (b"x" * 1_000_000 + b"\n") * 40


def test_bytes_that_are_no_utf8_pass_through(command: Command) -> None:
    ended = command.map("functions:same", stdin=b"\xff\xfe\nok\n")
    assert (ended.code, ended.output) == (0, b"\xff\xfe\nok\n")


def test_json_items_and_results(command: Command) -> None:
    ended = command.map("functions:double", "--json", stdin=b'2\n"a"\n[1, null]\n')
    assert ended.code == 0
    assert [json.loads(line) for line in ended.lines] == [4, "aa", [1, None, 1, None]]


def test_json_result_of_none_is_null(command: Command) -> None:
    assert command.map("functions:nothing", "--json", stdin=b"1\n").output == b"null\n"


def test_json_text_is_readable_and_utf8(command: Command) -> None:
    ended = command.map("functions:same", "--json", stdin=b'"\\u00e9"\n')
    assert ended.output == '"é"\n'.encode()


@pytest.mark.parametrize("line", [b'"\xff"', b'"\\ud800"'])
def test_json_results_are_valid_json_whatever_the_item(command: Command, line: bytes) -> None:
    ended = command.map("functions:same", "--json", stdin=line + b"\n")
    assert ended.code == 0
    assert len(json.loads(ended.output.decode("utf-8"))) == 1


@pytest.mark.parametrize("line", [b"{", b"", b"NaN", b"1 2", b"\xff"])
def test_line_that_is_not_json_is_its_items_error(command: Command, line: bytes) -> None:
    ended = command.map("functions:same", "--json", stdin=b"1\n" + line + b"\n3\n")
    assert (ended.code, ended.lines) == (1, ["1", "3"])
    (error,) = ended.error_lines
    assert error.startswith("item 2 (-:2): ")


@pytest.mark.parametrize(
    ("function", "options", "error"),
    [
        ("no_json", ["--json"], "TypeError: Object of type object is not JSON serializable"),
        ("not_a_number", ["--json"], "ValueError: Out of range float values"),
        ("lone_surrogate", [], "UnicodeEncodeError: "),
        ("leave", [], "SystemExit: 3"),
        ("fail", [], "ValueError: no 7"),
    ],
)
def test_failure_names_item_place_and_error(
    command: Command, function: str, options: list[str], error: str
) -> None:
    ended = command.map(f"functions:{function}", *options, stdin=b"7")
    assert (ended.code, ended.output) == (1, b"")
    assert ended.errors.startswith(f"item 1 (-:1): {error}")


def test_failures_are_named_and_the_others_go_on(command: Command) -> None:
    command.path("a.txt").write_text("2\n3\n")
    command.path("b.txt").write_text("4\n5\n6\n")
    ended = command.map("functions:even", "a.txt", "b.txt")
    assert (ended.code, ended.lines) == (1, ["2", "4", "6"])
    assert ended.error_lines == [
        "item 2 (a.txt:2): ValueError: 3 is odd",
        "item 4 (b.txt:2): ValueError: 5 is odd",
    ]


def test_every_failure_of_many_is_counted_right(command: Command) -> None:
    text = b"".join(b"%d\n" % number for number in range(5_000))
    ended = command.map("functions:even", stdin=text)
    assert ended.lines == [str(number) for number in range(0, 5_000, 2)]
    assert ended.error_lines == [
        f"item {number + 1} (-:{number + 1}): ValueError: {number} is odd"
        for number in range(1, 5_000, 2)
    ]


def test_further_lines_of_an_error_are_indented(command: Command) -> None:
    ended = command.map("functions:fail_in_two_lines", stdin=b"1\n")
    assert ended.error_lines == ["item 1 (-:1): ValueError: first", "    second"]


def test_stop_on_error_writes_what_came_before_and_nothing_after(command: Command) -> None:
    text = b"".join(b"%d\n" % number for number in [0, 2, 4, 5, 6, 7] * 1_000)
    ended = command.map("functions:even", "--stop-on-error", stdin=text)
    assert (ended.code, ended.lines) == (1, ["0", "2", "4"])
    assert ended.error_lines == ["item 4 (-:4): ValueError: 5 is odd"]


def test_stop_on_error_does_not_wait_for_what_runs(command: Command) -> None:
    ended = command.map("functions:wait", "--stop-on-error", stdin=b"/nowhere/a\nb never\n")
    assert ended.code == 1
    assert "item 1 (-:1): FileNotFoundError" in ended.errors


def test_killed_worker_is_its_items_error(command: Command) -> None:
    ended = command.map("functions:die_on_three", stdin=NUMBERS)
    assert (ended.code, ended.lines) == (1, [n for n in NUMBERS.decode().split() if n != "3"])
    assert ended.errors.startswith("item 3 (-:3): WorkerCrashedError: ")


def test_killed_worker_fails_one_item_of_a_full_call(command: Command) -> None:
    items = [str(number) for number in range(1, 2_000)]
    ended = command.map("functions:die_after_many", stdin="\n".join(items).encode())
    assert (ended.code, ended.lines) == (1, [item for item in items if item != "900"])
    assert ended.errors.startswith("item 900 (-:900): WorkerCrashedError: ")


def test_chunksize_one_runs_no_item_twice(command: Command) -> None:
    items = [str(number) for number in range(1, 1_200)]
    ended = command.map(
        "functions:die_after_many", "--chunksize", "1", stdin="\n".join(items).encode()
    )
    assert ended.code == 1
    ran = [line for log in command.directory.glob("ran-*") for line in log.read_text().split()]
    assert sorted(ran, key=int) == items


def test_timeout_is_not_spent_while_a_stuck_worker_is_replaced(command: Command) -> None:
    ended = command.map(
        "functions:stuck_on_five", "--workers", "1", "--timeout", "0.3",
        stdin=b"1\n5\n2\n3\n4\n6\n",
    )  # fmt: skip
    assert ended.code == 1
    assert "item 2 (-:2): TaskTimeoutError" in ended.errors
    assert "did not start" not in ended.errors


def test_timeout_ends_only_the_item_that_takes_too_long(command: Command) -> None:
    ended = command.map("functions:wait", "--timeout", "1.5", stdin=b"a\nb never\nc\nd\n")
    assert (ended.code, ended.lines) == (1, ["a", "c", "d"])
    assert ended.errors.startswith("item 2 (-:2): TaskTimeoutError: ")


def test_prints_of_the_function_do_not_mix_with_results(command: Command) -> None:
    ended = command.map("functions:noisy", stdin=b"1\n2\n")
    assert ended.lines == ["1", "2"]
    assert ended.error_lines.count("from a child") == 2


def test_function_cannot_read_the_items(command: Command) -> None:
    ended = command.map("functions:read_stdin", stdin=b"1\n2\n")
    assert ended.lines == ["''", "''"]


def test_progress_bar_is_shown_on_stderr(command: Command) -> None:
    ended = command.map("functions:even", "--progress", stdin=NUMBERS)
    assert ended.lines == ["2", "4", "6", "8", "10"]
    assert "10 items" in ended.errors
    assert "item 1 (-:1): ValueError: 1 is odd" in ended.errors
