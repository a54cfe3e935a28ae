"""What this user may: prints the codes of SCardEstablishContext and, where there is a context, of SCardConnect to the first reader."""
from smartcard import scard

rv, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
print(f"{rv & 0xFFFFFFFF:08X}")
if rv == scard.SCARD_S_SUCCESS:
    rv, readers = scard.SCardListReaders(context, [])
    rv, card, protocol = scard.SCardConnect(
        context, readers[0], scard.SCARD_SHARE_SHARED, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1)
    print(f"{rv & 0xFFFFFFFF:08X}")
