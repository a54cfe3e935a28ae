"""The reader is pulled out while clients are in Transmit, in GetStatusChange and in a transaction. Each is told what happened."""
import threading
import time
from smartcard import scard
from script import check, do, names, until

# How long it may take until all clients know, in seconds. It takes a tenth on an idle machine: a client that waits in a
# transaction's queue asks again at that interval.
SOON = 1.0

GONE = {scard.SCARD_E_READER_UNAVAILABLE & 0xFFFFFFFF, scard.SCARD_E_INVALID_VALUE & 0xFFFFFFFF,
        scard.SCARD_E_UNKNOWN_READER & 0xFFFFFFFF}


def establish():
    rv, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    check(rv)
    return context


def connect(context, name):
    rv, card, _ = scard.SCardConnect(
        context, name, scard.SCARD_SHARE_SHARED, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1)
    check(rv)
    return card


class Client(threading.Thread):
    """Does what `work` says until it fails, and notes when and how."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.ended, self.rv = work, None, None

    def run(self):
        while True:
            rv = self.work()
            if rv != 0:
                self.ended, self.rv = time.monotonic(), rv & 0xFFFFFFFF
                return


def transmitting(name):
    card = connect(establish(), name)
    return lambda: scard.SCardTransmit(card, scard.SCARD_PCI_T1, [0x00, 0x84, 0x00, 0x00, 0x00])[0]


def in_transaction(name):
    card = connect(establish(), name)

    def work():
        rv = scard.SCardBeginTransaction(card)
        if rv == 0:
            rv, _ = scard.SCardTransmit(card, scard.SCARD_PCI_T1, [0x00, 0x84, 0x00, 0x00, 0x10])
            rv = scard.SCardEndTransaction(card, scard.SCARD_LEAVE_CARD) or rv
        return rv
    return work


def waiting(name):
    context = establish()
    states = [(name, scard.SCARD_STATE_UNAWARE)]

    def work():
        nonlocal states
        rv, new = scard.SCardGetStatusChange(context, 60000, states)
        if rv:
            return rv
        event = new[0][1]
        # A reader that is gone may not look like a card that was taken out before.
        assert not event & scard.SCARD_STATE_EMPTY, "a removed card was reported"
        states = [(name, event & ~scard.SCARD_STATE_CHANGED)]
        return scard.SCARD_E_UNKNOWN_READER if event & scard.SCARD_STATE_UNAVAILABLE else 0
    return work


context = establish()
until(lambda: names(context), "the reader at the start")
name = names(context)[0]
slowest = 0.0
for _ in range(5):
    until(lambda: scard.SCardGetStatusChange(context, 0, [(name, 0)])[1][0][1] & scard.SCARD_STATE_PRESENT, "card")
    clients = [Client(kind(name)) for kind in (transmitting, transmitting, in_transaction, in_transaction, waiting, waiting)]
    for c in clients:
        c.start()
    time.sleep(0.2)
    assert all(c.rv is None for c in clients), [c.rv for c in clients]
    start = time.monotonic()
    do("unplug")
    for c in clients:
        c.join(30)
        assert c.rv is not None, "a client was not told"
        assert c.rv in GONE, "%08X" % c.rv
        slowest = max(slowest, c.ended - start)
    do("plug")
    until(lambda: names(context) == [name], "the reader again")
assert slowest < SOON, "a client was told after %.0f ms only" % (1000 * slowest)
print("5 cycles, all clients told within %.0f ms" % (1000 * slowest))
