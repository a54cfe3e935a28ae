"""pyscard's CardRequest sees a card in a reader that was pulled out and plugged in again."""
from smartcard.CardRequest import CardRequest
from smartcard.CardType import AnyCardType
from smartcard.System import readers
from script import do, until

until(lambda: readers(), "the reader at the start")
for _ in range(3):
    service = CardRequest(timeout=20, cardType=AnyCardType()).waitforcard()
    service.connection.connect()
    assert service.connection.getATR()[0] in (0x3B, 0x3F)
    service.connection.disconnect()
    do("unplug")
    until(lambda: readers() == [], "no readers")
    do("plug")
    until(lambda: readers(), "the reader again")
print("3 cycles")
