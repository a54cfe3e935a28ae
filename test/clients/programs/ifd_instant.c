/* A driver for pcscd whose one reader always has a card, which answers every command at once with 9000. */
#include <ifdhandler.h>
#include <string.h>

static const UCHAR answer_to_reset[] = { 0x3B, 0x80, 0x01, 0x81 };

RESPONSECODE IFDHCreateChannel(DWORD Lun, DWORD Channel)
{
	(void)Lun, (void)Channel;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannelByName(DWORD Lun, LPSTR DeviceName)
{
	(void)Lun, (void)DeviceName;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHCloseChannel(DWORD Lun)
{
	(void)Lun;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHGetCapabilities(DWORD Lun, DWORD Tag, PDWORD Length, PUCHAR Value)
{
	(void)Lun;
	switch (Tag) {
	case TAG_IFD_ATR:
		if (*Length < sizeof answer_to_reset)
			return IFD_ERROR_INSUFFICIENT_BUFFER;
		memcpy(Value, answer_to_reset, *Length = sizeof answer_to_reset);
		return IFD_SUCCESS;
	case TAG_IFD_SLOTS_NUMBER:
	case TAG_IFD_SIMULTANEOUS_ACCESS:
		*Value = 1;
		*Length = 1;
		return IFD_SUCCESS;
	}
	return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetCapabilities(DWORD Lun, DWORD Tag, DWORD Length, PUCHAR Value)
{
	(void)Lun, (void)Tag, (void)Length, (void)Value;
	return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD Lun, DWORD Protocol, UCHAR Flags, UCHAR PTS1, UCHAR PTS2, UCHAR PTS3)
{
	(void)Lun, (void)Protocol, (void)Flags, (void)PTS1, (void)PTS2, (void)PTS3;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHPowerICC(DWORD Lun, DWORD Action, PUCHAR Atr, PDWORD AtrLength)
{
	(void)Lun;
	*AtrLength = 0;
	if (Action != IFD_POWER_DOWN)
		memcpy(Atr, answer_to_reset, *AtrLength = sizeof answer_to_reset);
	return IFD_SUCCESS;
}

RESPONSECODE IFDHTransmitToICC(DWORD Lun, SCARD_IO_HEADER SendPci, PUCHAR TxBuffer, DWORD TxLength, PUCHAR RxBuffer,
	PDWORD RxLength, PSCARD_IO_HEADER RecvPci)
{
	(void)Lun, (void)SendPci, (void)TxBuffer, (void)TxLength, (void)RecvPci;
	if (*RxLength < 2)
		return IFD_COMMUNICATION_ERROR;
	RxBuffer[0] = 0x90, RxBuffer[1] = 0x00, *RxLength = 2;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHControl(DWORD Lun, DWORD Code, PUCHAR TxBuffer, DWORD TxLength, PUCHAR RxBuffer, DWORD RxLength,
	LPDWORD Returned)
{
	(void)Lun, (void)Code, (void)TxBuffer, (void)TxLength, (void)RxBuffer, (void)RxLength;
	*Returned = 0;
	return IFD_ERROR_NOT_SUPPORTED;
}

RESPONSECODE IFDHICCPresence(DWORD Lun)
{
	(void)Lun;
	return IFD_ICC_PRESENT;
}
