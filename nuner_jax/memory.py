"""Host memory in huge pages: XLA's CPU client gives a step's temporaries back after it, and in pages of 4 KiB the kernel has to clear
hundreds of thousands of them anew for the next step, a fifth of its time."""

import os
import sys
from pathlib import Path

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts this command again, in the same process, with glibc's malloc asking for transparent huge pages; else does nothing.

    For commands only, before anything else: glibc reads the setting when a process starts. Nothing happens where the setting is there
    already, whatever its value (0 switches this off), or where kernel or C library have no use for it.
    """
    tunables = os.environ.get(VARIABLE, "")
    if SETTING in tunables or not is_useful():
        return
    os.environ[VARIABLE] = ":".join(filter(None, [tunables, f"{SETTING}=1"]))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_useful() -> bool:
    """Whether the kernel gives huge pages to those who ask (and only to them), and glibc (2.35 or later) can ask."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = (int(number) for number in version.split(".")[:2])
        return name == "glibc" and (major, minor) >= (2, 35) and "[madvise]" in KERNEL.read_text()
    except (AttributeError, ValueError, OSError):  # another system, another C library, another kernel
        return False
