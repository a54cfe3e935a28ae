"""What the other scripts share: the test that runs them works the readers."""
import sys
import time
from smartcard import scard


def do(command):
    """Have the test do something to the readers, and wait until it is done."""
    print("DO", command, flush=True)
    assert sys.stdin.readline() == "done\n"


def check(rv, want=scard.SCARD_S_SUCCESS):
    assert rv & 0xFFFFFFFF == want & 0xFFFFFFFF, "%08X %s" % (rv & 0xFFFFFFFF, scard.SCardGetErrorMessage(rv))


def names(context):
    """The readers' names, as SCardListReaders gives them."""
    rv, found = scard.SCardListReaders(context, [])
    if rv & 0xFFFFFFFF == scard.SCARD_E_NO_READERS_AVAILABLE & 0xFFFFFFFF:
        return None
    check(rv)
    return found


def until(condition, what):
    """Wait for something that the daemon learns from USB."""
    end = time.monotonic() + 30
    while not holds(condition):
        assert time.monotonic() < end, what
        time.sleep(0.01)


def holds(condition):
    try:
        return condition()
    except SystemError:
        # pyscard asks for the length of the list, then for the list. Where the reader goes in between, it decodes the
        # buffer that nobody filled.
        return False
