"""Use a card as pyscard programs do: find it, connect, send commands of every length, disconnect."""
from smartcard.System import readers
from smartcard.CardConnection import CardConnection

found = readers()
assert len(found) == 1, found
connection = found[0].createConnection()
connection.connect(CardConnection.T0_protocol | CardConnection.T1_protocol)
assert connection.getATR()[0] in (0x3B, 0x3F), connection.getATR()

_, sw1, sw2 = connection.transmit([0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00])
assert (sw1, sw2) == (0x90, 0x00), (sw1, sw2)
for length in list(range(1, 20)) + [127, 128, 253, 254, 255, 256]:
    data, sw1, sw2 = connection.transmit([0x00, 0x84, 0x00, 0x00, length & 0xFF])
    assert (len(data), sw1, sw2) == (length, 0x90, 0x00), (length, len(data), sw1, sw2)
connection.disconnect()
print("ok")
