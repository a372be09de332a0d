class Control:
    def __init__(self, fd: int) -> None: ...
    @property
    def fd(self) -> int: ...
    def close_descriptor(self) -> None: ...

def create_control(
    lanes: int,
    slots: int,
    mail: int,
    definitions: int,
    inline_bytes: int,
    cpus: int,
    spin_limit_ns: int,
    name: str = "",
    threads: int = 1,
) -> Control: ...
