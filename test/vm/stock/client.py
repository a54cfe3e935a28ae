# A PC/SC client that works with the one reader there is for as long as it can, and with the next one after it. It says
# what it sees, one event a line: CLOCK_MONOTONIC in nanoseconds, a word, and more:
#   listed NAME   the reader is in the list
#   atr HEX       the card answered to reset
#   works         an APDU was answered
#   failed CODE   a call failed
#   gone          the reader is in the list no more
import time
from smartcard.scard import *

SELECT = list(bytes.fromhex("00A4040007A0000000790100"))
READ = list(bytes.fromhex("005200020202C8"))
PNP = "\\\\?PnP?\\Notification"


def say(*words):
    print(time.monotonic_ns(), *words, flush=True)


def code(result):
    return "%08X" % (result & 0xFFFFFFFF)


def readers(context):
    result, names = SCardListReaders(context, [])
    return names if result == SCARD_S_SUCCESS else []


def await_reader(context):
    while True:
        names = readers(context)
        if names:
            say("listed", names[0])
            return names[0]
        SCardGetStatusChange(context, 500, [(PNP, SCARD_STATE_UNAWARE)])


def connect(context, reader):
    """Returns the card's handle, or None when the reader is gone."""
    state = SCARD_STATE_UNAWARE
    while reader in readers(context):
        result, card, _ = SCardConnect(context, reader, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0)
        if result == SCARD_S_SUCCESS:
            return card
        result, states = SCardGetStatusChange(context, 500, [(reader, state)])
        if result == SCARD_S_SUCCESS:
            state = states[0][1] & ~SCARD_STATE_CHANGED
    return None


def work(card):
    """Exchanges APDUs until a call fails, and returns why."""
    result, _, _, _, atr = SCardStatus(card)
    if result != SCARD_S_SUCCESS:
        return result
    say("atr", bytes(atr).hex().upper())
    worked = False
    while True:
        for command in SELECT, READ:
            result, answer = SCardTransmit(card, SCARD_PCI_T0, command)
            if result != SCARD_S_SUCCESS:
                return result
            if len(answer) != 2 or answer[0] != 0x61:
                return SCARD_F_COMM_ERROR
            if not worked:
                worked = True
                say("works")


def await_gone(context, reader):
    """Waits until the reader is gone; returns False when it stays."""
    for _ in range(60):
        if reader not in readers(context):
            return True
        SCardGetStatusChange(context, 50, [(PNP, SCARD_STATE_UNAWARE)])
    return False


result, context = SCardEstablishContext(SCARD_SCOPE_SYSTEM)
if result != SCARD_S_SUCCESS:
    raise SystemExit("no context: " + code(result))
while True:
    reader = await_reader(context)
    gone = False
    while not gone:
        card = connect(context, reader)
        if card is not None:
            say("failed", code(work(card)))
            SCardDisconnect(card, SCARD_LEAVE_CARD)
        gone = card is None or await_gone(context, reader)
    say("gone")
