"""The last reader goes and comes again. There are no readers then, which is no trouble: the context stays valid, waits go on."""
from smartcard import scard
from script import check, do, names, until

rv, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
check(rv)
until(lambda: names(context), "the reader at the start")
name = names(context)[0]
for _ in range(10):
    do("unplug")
    until(lambda: names(context) is None, "SCARD_E_NO_READERS_AVAILABLE")
    check(scard.SCardIsValidContext(context))
    rv, _ = scard.SCardGetStatusChange(context, 0, [(name, scard.SCARD_STATE_UNAWARE)])
    check(rv, scard.SCARD_E_UNKNOWN_READER)
    # A wait for new readers is told of the one that comes.
    pnp = "\\\\?PnP?\\Notification"
    rv, states = scard.SCardGetStatusChange(context, 0, [(pnp, scard.SCARD_STATE_UNAWARE)])
    do("plug")
    until(lambda: names(context) == [name], "the same reader under the same name")
    check(scard.SCardIsValidContext(context))
    rv, states = scard.SCardGetStatusChange(context, 20000, [(name, scard.SCARD_STATE_UNAWARE)])
    check(rv)
    if not states[0][1] & scard.SCARD_STATE_PRESENT:
        rv, states = scard.SCardGetStatusChange(context, 20000, [(name, states[0][1] & 0xFFFF)])
        check(rv)
    assert states[0][1] & scard.SCARD_STATE_PRESENT, states
    rv, card, protocol = scard.SCardConnect(
        context, name, scard.SCARD_SHARE_SHARED, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1)
    check(rv)
    rv, answer = scard.SCardTransmit(card, scard.SCARD_PCI_T1, [0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00])
    check(rv)
    assert answer == [0x90, 0x00], answer
check(scard.SCardReleaseContext(context))
print("10 cycles")
