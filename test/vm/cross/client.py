# A client of pcscd that does what it reads, a command a line, and answers each by one line: "ok" and what came of it, or
# "failed" and a code. Bytes are in hexadecimal.
#   readers                        -> names, separated by |
#   await NAME present|absent      waits half a minute at most
#   connect NAME t0|t1             -> the ATR
#   transmit BYTES                 -> the response
#   control CODE [BYTES]           -> the answer
#   reset                          resets the card
#   disconnect                     takes the card's power away
import sys
from smartcard.scard import *

PROTOCOLS = {"t0": SCARD_PROTOCOL_T0, "t1": SCARD_PROTOCOL_T1}
STATES = {"present": SCARD_STATE_PRESENT, "absent": SCARD_STATE_EMPTY}


class Failed(Exception):
    pass


def check(result):
    if result != SCARD_S_SUCCESS:
        raise Failed("%08X" % (result & 0xFFFFFFFF))


class Client:
    def __init__(self):
        result, self.context = SCardEstablishContext(SCARD_SCOPE_SYSTEM)
        check(result)
        self.card = self.protocol = None

    def readers(self):
        result, names = SCardListReaders(self.context, [])
        if result == SCARD_E_NO_READERS_AVAILABLE:
            names = []
        else:
            check(result)
        return "|".join(names)

    def wait(self, name, wanted):
        state = SCARD_STATE_UNAWARE
        for _ in range(60):
            result, states = SCardGetStatusChange(self.context, 500, [(name, state)])
            if result == SCARD_E_TIMEOUT:
                continue
            check(result)
            state = states[0][1] & ~SCARD_STATE_CHANGED
            if state & STATES[wanted] and not state & SCARD_STATE_MUTE:
                return ""
        raise Failed("timeout")

    def connect(self, name, protocol):
        self.protocol = PROTOCOLS[protocol]
        result, self.card, _ = SCardConnect(self.context, name, SCARD_SHARE_SHARED, self.protocol)
        check(result)
        result, _, _, _, atr = SCardStatus(self.card)
        check(result)
        return bytes(atr).hex()

    def transmit(self, command):
        pci = SCARD_PCI_T0 if self.protocol == SCARD_PROTOCOL_T0 else SCARD_PCI_T1
        result, response = SCardTransmit(self.card, pci, list(bytes.fromhex(command)))
        check(result)
        return bytes(response).hex()

    def control(self, code, data=""):
        result, answer = SCardControl(self.card, int(code), list(bytes.fromhex(data)))
        check(result)
        return bytes(answer).hex()

    def reset(self):
        result, _ = SCardReconnect(self.card, SCARD_SHARE_SHARED, self.protocol, SCARD_RESET_CARD)
        check(result)
        return ""

    def disconnect(self):
        check(SCardDisconnect(self.card, SCARD_UNPOWER_CARD))
        return ""


client = Client()
client.__dict__["await"] = client.wait
for line in sys.stdin:
    word, *arguments = line.rstrip("\n").split("\t")
    try:
        print("ok", getattr(client, word)(*arguments), flush=True)
    except Failed as failure:
        print("failed", failure, flush=True)
