/*
 * Calls every function of the PC/SC API, with right and with wrong arguments, and prints one line for each call:
 *
 *     NUMBER FUNCTION what is special: code outputs
 *
 * What differs from run to run or from reader to reader (handles, reader names, event counters) is not printed, so the
 * output of two resource managers can be compared line by line. It needs one reader, the first, with a card that answers
 * SELECT of the master file, and is to be run with PCSCLITE_NO_BLOCKING=1: see calls_test.go.
 */
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <winscard.h>
#include <reader.h>

static int number;
static char reader[MAX_READERNAME];

static void say(const char *what, LONG rv, const char *format, ...)
{
	va_list arguments;
	printf("%03d %s: %08lX", ++number, what, (unsigned long)rv & 0xFFFFFFFFul);
	va_start(arguments, format);
	if (*format)
		putchar(' ');
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

#define SAY(what, call) do { LONG rv_ = (call); say(what, rv_, ""); } while (0)

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&t, NULL);
}

static const BYTE select_mf[] = { 0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00 };
static const BYTE get_challenge[] = { 0x00, 0x84, 0x00, 0x00, 0x08 };
static const BYTE wrong_class[] = { 0x8F, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00 };

static const SCARD_IO_REQUEST *pci(DWORD protocol)
{
	return protocol == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : protocol == SCARD_PROTOCOL_T1 ? SCARD_PCI_T1 : SCARD_PCI_RAW;
}

static const char *kind(DWORD protocol)
{
	switch (protocol) {
	case 0: return "none";
	case SCARD_PROTOCOL_T0: case SCARD_PROTOCOL_T1: return "card's";
	case SCARD_PROTOCOL_RAW: return "raw";
	}
	return "other";
}

static void transmit(const char *what, SCARDHANDLE card, const SCARD_IO_REQUEST *p, const BYTE *command, DWORD length)
{
	BYTE answer[MAX_BUFFER_SIZE_EXTENDED] = { 0 };
	DWORD got = sizeof answer;
	LONG rv = SCardTransmit(card, p, command, length, NULL, answer, &got);
	if (rv == SCARD_S_SUCCESS && got >= 2)
		say(what, rv, "%lu bytes, SW %02X%02X", got, answer[got - 2], answer[got - 1]);
	else
		say(what, rv, "%lu bytes", rv == SCARD_S_SUCCESS ? got : 0ul);
}

static void status(const char *what, SCARDHANDLE card)
{
	char name[MAX_READERNAME] = "";
	BYTE atr[MAX_ATR_SIZE];
	DWORD length = sizeof name, state = 0, protocol = 0, atr_length = sizeof atr;
	LONG rv = SCardStatus(card, name, &length, &state, &protocol, atr, &atr_length);
	if (rv != SCARD_S_SUCCESS) {
		say(what, rv, "");
		return;
	}
	say(what, rv, "%s state %04lX protocol %s ATR %s", strcmp(name, reader) ? "another reader" : "reader",
		state & 0xFFFF, kind(protocol), atr_length ? "known" : "none");
}

static void change(const char *what, SCARDCONTEXT context, DWORD timeout, const char *name, DWORD current)
{
	SCARD_READERSTATE s = { .szReader = name, .dwCurrentState = current };
	LONG rv = SCardGetStatusChange(context, timeout, &s, 1);
	say(what, rv, "event %04lX ATR %s", s.dwEventState & 0xFFFF, s.cbAtr ? "known" : "none");
}

static LONG connect_to(SCARDCONTEXT context, const char *name, DWORD share, DWORD protocols, SCARDHANDLE *card, DWORD *active)
{
	*card = 0;
	*active = 0xDEAD;
	return SCardConnect(context, name, share, protocols, card, active);
}

static SCARDHANDLE say_connect(const char *what, SCARDCONTEXT context, DWORD share, DWORD protocols)
{
	SCARDHANDLE card;
	DWORD active;
	LONG rv = connect_to(context, reader, share, protocols, &card, &active);
	if (rv == SCARD_S_SUCCESS)
		say(what, rv, "handle %s protocol %s", card ? "set" : "0", kind(active));
	else
		say(what, rv, "handle %s", card ? "set" : "0");
	return card;
}

static void say_reconnect(const char *what, SCARDHANDLE card, DWORD share, DWORD protocols, DWORD initialization)
{
	DWORD active = 0xDEAD;
	LONG rv = SCardReconnect(card, share, protocols, initialization, &active);
	if (rv == SCARD_S_SUCCESS)
		say(what, rv, "protocol %s", kind(active));
	else
		say(what, rv, "");
}

/* What a thread does while the main one goes on. */
struct work { SCARDCONTEXT context; SCARDHANDLE card; LONG rv; };

static void *begin(void *p)
{
	struct work *w = p;
	w->rv = SCardBeginTransaction(w->card);
	return NULL;
}

static void *cancel_later(void *p)
{
	struct work *w = p;
	pause_ms(400);
	w->rv = SCardCancel(w->context);
	return NULL;
}

static void contexts(void)
{
	SCARDCONTEXT c = 0;
	SAY("SCardEstablishContext no place for the result", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, NULL));
	const DWORD scopes[] = { SCARD_SCOPE_USER, SCARD_SCOPE_TERMINAL, SCARD_SCOPE_SYSTEM, SCARD_SCOPE_GLOBAL, 4, 99, 0xFFFFFFFF };
	for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++) {
		char what[80];
		snprintf(what, sizeof what, "SCardEstablishContext scope %lu", scopes[i]);
		LONG rv = SCardEstablishContext(scopes[i], NULL, NULL, &c);
		say(what, rv, "");
		if (rv == SCARD_S_SUCCESS) {
			SAY("SCardIsValidContext", SCardIsValidContext(c));
			SAY("SCardReleaseContext", SCardReleaseContext(c));
			SAY("SCardIsValidContext after release", SCardIsValidContext(c));
		}
	}
	SAY("SCardEstablishContext reserved pointers", SCardEstablishContext(SCARD_SCOPE_SYSTEM, "x", "y", &c));
	SAY("SCardReleaseContext", SCardReleaseContext(c));
	SAY("SCardReleaseContext twice", SCardReleaseContext(c));
	SAY("SCardReleaseContext 0", SCardReleaseContext(0));
	SAY("SCardIsValidContext 0", SCardIsValidContext(0));
	SAY("SCardIsValidContext 12345", SCardIsValidContext(12345));
	SAY("SCardCancel 12345", SCardCancel(12345));
	SAY("SCardFreeMemory no context", SCardFreeMemory(0, NULL));
}

static void lists(SCARDCONTEXT context)
{
	char buffer[4096];
	LPSTR allocated = NULL;
	DWORD length;
	LONG rv;

	SAY("SCardListReaders no place for the length", SCardListReaders(context, NULL, buffer, NULL));
	length = 0;
	rv = SCardListReaders(context, NULL, NULL, &length);
	say("SCardListReaders length only", rv, "%s", length > 2 ? "some" : "none");
	length = 2;
	rv = SCardListReaders(context, NULL, buffer, &length);
	say("SCardListReaders short buffer", rv, "%s", length > 2 ? "length needed" : "no length");
	length = sizeof buffer;
	rv = SCardListReaders(context, NULL, buffer, &length);
	say("SCardListReaders", rv, "");
	if (rv == SCARD_S_SUCCESS)
		snprintf(reader, sizeof reader, "%.*s", (int)sizeof reader - 1, buffer);
	length = SCARD_AUTOALLOCATE;
	rv = SCardListReaders(context, NULL, (LPSTR)&allocated, &length);
	say("SCardListReaders allocated", rv, "%s", rv == SCARD_S_SUCCESS && !strcmp(allocated, reader) ? "same" : "other");
	SAY("SCardFreeMemory", SCardFreeMemory(context, allocated));
	length = sizeof buffer;
	rv = SCardListReaders(context, "NoSuchGroup\0", buffer, &length);
	say("SCardListReaders of an unknown group", rv, "");
	SAY("SCardListReaders no context", SCardListReaders(0, NULL, buffer, &length));
	SAY("SCardListReaders wrong context", SCardListReaders(12345, NULL, buffer, &length));

	length = 0;
	rv = SCardListReaderGroups(context, NULL, &length);
	say("SCardListReaderGroups length only", rv, "%lu", length);
	length = 5;
	rv = SCardListReaderGroups(context, buffer, &length);
	say("SCardListReaderGroups short buffer", rv, "%lu", length);
	length = sizeof buffer;
	rv = SCardListReaderGroups(context, buffer, &length);
	say("SCardListReaderGroups", rv, "%s %lu", buffer, length);
	SAY("SCardListReaderGroups wrong context", SCardListReaderGroups(12345, buffer, &length));
}

static void connecting(SCARDCONTEXT context)
{
	SCARDHANDLE card;
	DWORD active;
	const DWORD any = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1;
	char name[400];

	SAY("SCardConnect no place for the handle", SCardConnect(context, reader, SCARD_SHARE_SHARED, any, NULL, &active));
	SAY("SCardConnect no place for the protocol", SCardConnect(context, reader, SCARD_SHARE_SHARED, any, &card, NULL));
	SAY("SCardConnect no name", connect_to(context, NULL, SCARD_SHARE_SHARED, any, &card, &active));
	SAY("SCardConnect empty name", connect_to(context, "", SCARD_SHARE_SHARED, any, &card, &active));
	SAY("SCardConnect unknown name", connect_to(context, "No such reader 00 00", SCARD_SHARE_SHARED, any, &card, &active));
	snprintf(name, sizeof name, "%s ", reader);
	SAY("SCardConnect name with a blank more", connect_to(context, name, SCARD_SHARE_SHARED, any, &card, &active));
	snprintf(name, sizeof name, "%.*s", (int)strlen(reader) - 1, reader);
	SAY("SCardConnect name with a character less", connect_to(context, name, SCARD_SHARE_SHARED, any, &card, &active));
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = 0;
	SAY("SCardConnect name too long", connect_to(context, name, SCARD_SHARE_SHARED, any, &card, &active));
	SAY("SCardConnect no context", connect_to(0, reader, SCARD_SHARE_SHARED, any, &card, &active));
	SAY("SCardConnect wrong context", connect_to(12345, reader, SCARD_SHARE_SHARED, any, &card, &active));
	const DWORD shares[] = { 0, 4, 99, 0xFFFFFFFF };
	for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
		snprintf(name, sizeof name, "SCardConnect share mode %lu", shares[i]);
		SAY(name, connect_to(context, reader, shares[i], any, &card, &active));
		snprintf(name, sizeof name, "SCardConnect share mode %lu and no protocol", shares[i]);
		SAY(name, connect_to(context, reader, shares[i], 0, &card, &active));
	}
	const DWORD protocols[] = { 0, SCARD_PROTOCOL_T15, 0x20, 0x80000000 };
	for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++) {
		snprintf(name, sizeof name, "SCardConnect shared protocols %lX", protocols[i]);
		SAY(name, connect_to(context, reader, SCARD_SHARE_SHARED, protocols[i], &card, &active));
		snprintf(name, sizeof name, "SCardConnect exclusive protocols %lX", protocols[i]);
		SAY(name, connect_to(context, reader, SCARD_SHARE_EXCLUSIVE, protocols[i], &card, &active));
	}
	SAY("SCardConnect unknown name and no protocol", connect_to(context, "nobody", SCARD_SHARE_SHARED, 0, &card, &active));
	card = say_connect("SCardConnect any and one that nobody knows", context, SCARD_SHARE_SHARED, any | 0x20);
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
	SAY("SCardDisconnect twice", SCardDisconnect(card, SCARD_LEAVE_CARD));
	SAY("SCardDisconnect 0", SCardDisconnect(0, SCARD_LEAVE_CARD));
	card = say_connect("SCardConnect shared", context, SCARD_SHARE_SHARED, any);
	const DWORD dispositions[] = { 4, 99, 0xFFFFFFFF };
	for (size_t i = 0; i < sizeof dispositions / sizeof *dispositions; i++) {
		snprintf(name, sizeof name, "SCardDisconnect disposition %lu", dispositions[i]);
		SAY(name, SCardDisconnect(card, dispositions[i]));
	}
	SAY("SCardDisconnect reset", SCardDisconnect(card, SCARD_RESET_CARD));
	card = say_connect("SCardConnect after a reset", context, SCARD_SHARE_SHARED, any);
	SAY("SCardDisconnect unpower", SCardDisconnect(card, SCARD_UNPOWER_CARD));
	card = say_connect("SCardConnect after unpowering", context, SCARD_SHARE_SHARED, any);
	SAY("SCardDisconnect eject", SCardDisconnect(card, SCARD_EJECT_CARD));
	card = say_connect("SCardConnect after ejecting", context, SCARD_SHARE_EXCLUSIVE, any);
	status("SCardStatus exclusive", card);
	SAY("SCardDisconnect exclusive", SCardDisconnect(card, SCARD_LEAVE_CARD));
	card = say_connect("SCardConnect direct", context, SCARD_SHARE_DIRECT, 0);
	status("SCardStatus direct", card);
	transmit("SCardTransmit direct", card, SCARD_PCI_T0, select_mf, sizeof select_mf);
	say_reconnect("SCardReconnect direct to shared", card, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD);
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
}

/* The protocols that clients of old asked for: any, in a bit of its own, and none. */
static void old_protocols(SCARDCONTEXT context)
{
	const DWORD any = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, any_old = 0x1000;
	const SCARD_IO_REQUEST none_pci = { 0, sizeof none_pci }, any_old_pci = { any_old, sizeof any_old_pci };
	SCARDHANDLE card = say_connect("SCardConnect shared", context, SCARD_SHARE_SHARED, any);
	say_connect("SCardConnect of the old any beside a protocol", context, SCARD_SHARE_SHARED, any_old);
	transmit("SCardTransmit of the old any", card, &any_old_pci, select_mf, sizeof select_mf);
	transmit("SCardTransmit of no protocol beside one", card, &none_pci, select_mf, sizeof select_mf);
	SAY("SCardDisconnect reset", SCardDisconnect(card, SCARD_RESET_CARD));
	card = say_connect("SCardConnect of the old any", context, SCARD_SHARE_SHARED, any_old);
	SAY("SCardDisconnect reset", SCardDisconnect(card, SCARD_RESET_CARD));
	card = say_connect("SCardConnect direct after a reset", context, SCARD_SHARE_DIRECT, 0);
	transmit("SCardTransmit of no protocol before there is one", card, &none_pci, select_mf, sizeof select_mf);
	transmit("SCardTransmit of the old any before there is one", card, &any_old_pci, select_mf, sizeof select_mf);
	transmit("SCardTransmit of T=0 before there is a protocol", card, SCARD_PCI_T0, select_mf, sizeof select_mf);
	transmit("SCardTransmit of T=1 before there is a protocol", card, SCARD_PCI_T1, select_mf, sizeof select_mf);
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
}

static void reconnecting(SCARDCONTEXT context)
{
	const DWORD any = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1;
	DWORD active;
	char what[80];
	SCARDHANDLE card = say_connect("SCardConnect shared", context, SCARD_SHARE_SHARED, any);

	SAY("SCardReconnect no place for the protocol", SCardReconnect(card, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD, NULL));
	SAY("SCardReconnect wrong handle", SCardReconnect(12345, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD, &active));
	SAY("SCardReconnect handle 0", SCardReconnect(0, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD, &active));
	const DWORD initializations[] = { SCARD_EJECT_CARD, 4, 99, 0xFFFFFFFF };
	for (size_t i = 0; i < sizeof initializations / sizeof *initializations; i++) {
		snprintf(what, sizeof what, "SCardReconnect initialization %lu", initializations[i]);
		say_reconnect(what, card, SCARD_SHARE_SHARED, any, initializations[i]);
		snprintf(what, sizeof what, "SCardReconnect initialization %lu and share mode 9", initializations[i]);
		say_reconnect(what, card, 9, any, initializations[i]);
	}
	say_reconnect("SCardReconnect share mode 0", card, 0, any, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect share mode 4", card, 4, any, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect share mode 4 and no protocol", card, 4, 0, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect no protocol", card, SCARD_SHARE_SHARED, 0, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect protocol 20", card, SCARD_SHARE_SHARED, 0x20, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect leave", card, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect reset", card, SCARD_SHARE_SHARED, any, SCARD_RESET_CARD);
	status("SCardStatus after it", card);
	say_reconnect("SCardReconnect unpower", card, SCARD_SHARE_SHARED, any, SCARD_UNPOWER_CARD);
	status("SCardStatus after it", card);
	say_reconnect("SCardReconnect to exclusive", card, SCARD_SHARE_EXCLUSIVE, any, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect to exclusive again", card, SCARD_SHARE_EXCLUSIVE, any, SCARD_LEAVE_CARD);
	SAY("SCardEndTransaction of an exclusive handle", SCardEndTransaction(card, SCARD_LEAVE_CARD));
	SAY("SCardBeginTransaction of an exclusive handle", SCardBeginTransaction(card));
	SAY("SCardEndTransaction of an exclusive handle", SCardEndTransaction(card, SCARD_LEAVE_CARD));
	say_reconnect("SCardReconnect from exclusive to shared", card, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD);
	status("SCardStatus after it", card);
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
}

static void transmitting(SCARDCONTEXT context)
{
	const DWORD any = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1;
	SCARDHANDLE card;
	DWORD active, length;
	BYTE answer[MAX_BUFFER_SIZE_EXTENDED + 1], command[MAX_BUFFER_SIZE_EXTENDED + 10] = { 0 };
	LONG rv = connect_to(context, reader, SCARD_SHARE_SHARED, any, &card, &active);
	say("SCardConnect shared", rv, "protocol %s", kind(active));
	const SCARD_IO_REQUEST *own = pci(active), *other = active == SCARD_PROTOCOL_T0 ? SCARD_PCI_T1 : SCARD_PCI_T0;

	transmit("SCardTransmit SELECT", card, own, select_mf, sizeof select_mf);
	transmit("SCardTransmit GET CHALLENGE", card, own, get_challenge, sizeof get_challenge);
	transmit("SCardTransmit unknown class", card, own, wrong_class, sizeof wrong_class);
	transmit("SCardTransmit of the other protocol", card, other, select_mf, sizeof select_mf);
	transmit("SCardTransmit wrong handle", 12345, own, select_mf, sizeof select_mf);
	transmit("SCardTransmit handle 0", 0, own, select_mf, sizeof select_mf);
	length = sizeof answer;
	SAY("SCardTransmit no command", SCardTransmit(card, own, NULL, 7, NULL, answer, &length));
	SAY("SCardTransmit no place for the answer", SCardTransmit(card, own, select_mf, sizeof select_mf, NULL, NULL, &length));
	SAY("SCardTransmit no place for its length", SCardTransmit(card, own, select_mf, sizeof select_mf, NULL, answer, NULL));
	SAY("SCardTransmit no PCI", SCardTransmit(card, NULL, select_mf, sizeof select_mf, NULL, answer, &length));
	for (DWORD room = 0; room < 4; room++) {
		char what[80];
		snprintf(what, sizeof what, "SCardTransmit room for %lu bytes", room);
		length = room;
		rv = SCardTransmit(card, own, get_challenge, sizeof get_challenge, NULL, answer, &length);
		say(what, rv, "length %lu", length);
	}
	length = sizeof answer;
	SAY("SCardTransmit command too long", SCardTransmit(card, own, command, MAX_BUFFER_SIZE_EXTENDED + 1, NULL, answer, &length));
	length = sizeof answer;
	rv = SCardTransmit(card, own, get_challenge, sizeof get_challenge, NULL, answer, &length);
	say("SCardTransmit room for more than the most", rv, "length %lu", length);
	SCARD_IO_REQUEST got = { 77, sizeof got };
	length = sizeof answer;
	rv = SCardTransmit(card, own, get_challenge, sizeof get_challenge, &got, answer, &length);
	say("SCardTransmit with a PCI for the answer", rv, "length %lu", length);
	SAY("SCardDisconnect reset", SCardDisconnect(card, SCARD_RESET_CARD));
	transmit("SCardTransmit after disconnecting", card, own, select_mf, sizeof select_mf);
}

static void states(SCARDCONTEXT context)
{
	char name[MAX_READERNAME];
	BYTE atr[MAX_ATR_SIZE];
	DWORD length, state, protocol, atr_length;
	SCARDHANDLE card = say_connect("SCardConnect shared", context, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1);
	LONG rv;

	status("SCardStatus", card);
	status("SCardStatus wrong handle", 12345);
	length = sizeof name, atr_length = sizeof atr;
	SAY("SCardStatus no places", SCardStatus(card, NULL, NULL, NULL, NULL, NULL, NULL));
	SAY("SCardStatus no place for the name's length", SCardStatus(card, name, NULL, &state, &protocol, atr, &atr_length));
	SAY("SCardStatus no place for the ATR's length", SCardStatus(card, name, &length, &state, &protocol, atr, NULL));
	length = 3, atr_length = sizeof atr;
	rv = SCardStatus(card, name, &length, &state, &protocol, atr, &atr_length);
	say("SCardStatus short name", rv, "%s", length > 3 ? "length needed" : "no length");
	length = sizeof name, atr_length = 1;
	rv = SCardStatus(card, name, &length, &state, &protocol, atr, &atr_length);
	say("SCardStatus short ATR", rv, "%s", atr_length > 1 ? "length needed" : "no length");
	length = 0, atr_length = 0;
	rv = SCardStatus(card, NULL, &length, &state, &protocol, NULL, &atr_length);
	say("SCardStatus lengths only", rv, "%s %s", length ? "name" : "no name", atr_length ? "ATR" : "no ATR");

	change("SCardGetStatusChange unaware", context, 0, reader, SCARD_STATE_UNAWARE);
	change("SCardGetStatusChange present", context, 100, reader, SCARD_STATE_PRESENT | SCARD_STATE_INUSE);
	change("SCardGetStatusChange empty", context, 100, reader, SCARD_STATE_EMPTY);
	change("SCardGetStatusChange exclusive", context, 100, reader, SCARD_STATE_PRESENT | SCARD_STATE_EXCLUSIVE);
	change("SCardGetStatusChange unavailable", context, 100, reader, SCARD_STATE_UNAVAILABLE);
	change("SCardGetStatusChange unknown", context, 100, reader, SCARD_STATE_UNKNOWN);
	change("SCardGetStatusChange mute", context, 100, reader, SCARD_STATE_PRESENT | SCARD_STATE_MUTE | SCARD_STATE_INUSE);
	change("SCardGetStatusChange ignore", context, 100, reader, SCARD_STATE_IGNORE);
	change("SCardGetStatusChange no such reader", context, 100, "No such reader 00 00", SCARD_STATE_UNAWARE);
	change("SCardGetStatusChange PnP", context, 100, "\\\\?PnP?\\Notification", SCARD_STATE_UNAWARE);
	change("SCardGetStatusChange pnp", context, 0, "\\\\?pnp?\\notification", SCARD_STATE_UNAWARE);
	change("SCardGetStatusChange no name", context, 100, NULL, SCARD_STATE_UNAWARE);
	change("SCardGetStatusChange wrong context", 12345, 100, reader, SCARD_STATE_UNAWARE);
	SAY("SCardGetStatusChange nothing", SCardGetStatusChange(context, 100, NULL, 0));
	SAY("SCardGetStatusChange no array", SCardGetStatusChange(context, 100, NULL, 1));

	struct work w = { .context = context };
	pthread_t thread;
	pthread_create(&thread, NULL, cancel_later, &w);
	change("SCardGetStatusChange cancelled", context, 20000, reader, SCARD_STATE_PRESENT | SCARD_STATE_INUSE);
	pthread_join(thread, NULL);
	say("SCardCancel of a waiting context", w.rv, "");
	SAY("SCardCancel of one that does not wait", SCardCancel(context));
	change("SCardGetStatusChange after it", context, 100, reader, SCARD_STATE_PRESENT | SCARD_STATE_INUSE);
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
	change("SCardGetStatusChange in use, not any more", context, 5000, reader, SCARD_STATE_PRESENT | SCARD_STATE_INUSE);
	status("SCardStatus after disconnecting", card);
}

static void attributes(SCARDCONTEXT context)
{
	BYTE value[512];
	DWORD length;
	LONG rv;
	SCARDHANDLE card = say_connect("SCardConnect shared", context, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1);

	length = sizeof value;
	rv = SCardGetAttrib(card, SCARD_ATTR_ATR_STRING, value, &length);
	say("SCardGetAttrib ATR", rv, "%s", length > 1 ? "some" : "none");
	length = 0;
	rv = SCardGetAttrib(card, SCARD_ATTR_ATR_STRING, NULL, &length);
	say("SCardGetAttrib ATR length only", rv, "%s", length > 1 ? "some" : "none");
	length = 1;
	rv = SCardGetAttrib(card, SCARD_ATTR_ATR_STRING, value, &length);
	say("SCardGetAttrib ATR short buffer", rv, "");
	length = 1000;
	SAY("SCardGetAttrib buffer larger than the most", SCardGetAttrib(card, SCARD_ATTR_ATR_STRING, value, &length));
	length = sizeof value;
	SAY("SCardGetAttrib no length", SCardGetAttrib(card, SCARD_ATTR_ATR_STRING, value, NULL));
	SAY("SCardGetAttrib wrong handle", SCardGetAttrib(12345, SCARD_ATTR_ATR_STRING, value, &length));
	length = sizeof value;
	SAY("SCardGetAttrib unknown attribute", SCardGetAttrib(card, 0x12345678, value, &length));
	length = sizeof value;
	rv = SCardGetAttrib(card, SCARD_ATTR_DEVICE_FRIENDLY_NAME_A, value, &length);
	say("SCardGetAttrib friendly name", rv, "%s", rv == SCARD_S_SUCCESS && !strcmp((char *)value, reader) ? "reader" : "other");
	length = sizeof value;
	rv = SCardGetAttrib(card, SCARD_ATTR_DEVICE_SYSTEM_NAME_A, value, &length);
	say("SCardGetAttrib system name", rv, "%s", rv == SCARD_S_SUCCESS && !strcmp((char *)value, reader) ? "reader" : "other");
	SAY("SCardSetAttrib unknown attribute", SCardSetAttrib(card, 0x12345678, value, 4));
	SAY("SCardSetAttrib ATR", SCardSetAttrib(card, SCARD_ATTR_ATR_STRING, value, 4));
	SAY("SCardSetAttrib no value", SCardSetAttrib(card, 0x12345678, NULL, 4));
	SAY("SCardSetAttrib no bytes", SCardSetAttrib(card, 0x12345678, value, 0));
	SAY("SCardSetAttrib too many bytes", SCardSetAttrib(card, 0x12345678, value, 265));
	SAY("SCardSetAttrib wrong handle", SCardSetAttrib(12345, 0x12345678, value, 4));

	DWORD got = 99;
	SAY("SCardControl wrong handle", SCardControl(12345, SCARD_CTL_CODE(3400), NULL, 0, value, sizeof value, &got));
	SAY("SCardControl unknown code", SCardControl(card, SCARD_CTL_CODE(9999), NULL, 0, value, sizeof value, &got));
	SAY("SCardControl code 0", SCardControl(card, 0, NULL, 0, value, sizeof value, &got));
	SAY("SCardControl features", SCardControl(card, SCARD_CTL_CODE(3400), NULL, 0, value, sizeof value, &got));
	SAY("SCardControl features no place for the length", SCardControl(card, SCARD_CTL_CODE(3400), NULL, 0, value, sizeof value, NULL));
	SAY("SCardControl features no room", SCardControl(card, SCARD_CTL_CODE(3400), NULL, 0, value, 0, &got));
	SAY("SCardControl too long", SCardControl(card, SCARD_CTL_CODE(3400), value, MAX_BUFFER_SIZE_EXTENDED + 1, value, sizeof value, &got));
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
}

static void transactions(SCARDCONTEXT context)
{
	const DWORD any = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1;
	SCARDCONTEXT second;
	DWORD active;
	SAY("SCardEstablishContext a second one", SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &second));
	SCARDHANDLE mine = say_connect("SCardConnect first", context, SCARD_SHARE_SHARED, any);
	SCARDHANDLE theirs = say_connect("SCardConnect second", second, SCARD_SHARE_SHARED, any);
	const SCARD_IO_REQUEST *own;
	BYTE value[264];
	DWORD length = sizeof value, got;
	char name[MAX_READERNAME];
	DWORD name_length = sizeof name, state;
	BYTE atr[MAX_ATR_SIZE];
	DWORD atr_length = sizeof atr;
	SCardStatus(mine, name, &name_length, &state, &active, atr, &atr_length);
	own = pci(active);

	SAY("SCardBeginTransaction wrong handle", SCardBeginTransaction(12345));
	SAY("SCardEndTransaction wrong handle", SCardEndTransaction(12345, SCARD_LEAVE_CARD));
	SAY("SCardEndTransaction without begin", SCardEndTransaction(mine, SCARD_LEAVE_CARD));
	SAY("SCardBeginTransaction", SCardBeginTransaction(mine));
	SAY("SCardBeginTransaction again", SCardBeginTransaction(mine));
	const DWORD dispositions[] = { 4, 99, 0xFFFFFFFF };
	for (size_t i = 0; i < sizeof dispositions / sizeof *dispositions; i++)
		SAY("SCardEndTransaction wrong disposition", SCardEndTransaction(mine, dispositions[i]));
	SAY("SCardEndTransaction of the other", SCardEndTransaction(theirs, SCARD_LEAVE_CARD));
	SAY("SCardEndTransaction of the other with reset", SCardEndTransaction(theirs, SCARD_RESET_CARD));
	transmit("SCardTransmit of the other", theirs, own, select_mf, sizeof select_mf);
	status("SCardStatus of the other", theirs);
	say_reconnect("SCardReconnect of the other", theirs, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD);
	SAY("SCardControl of the other", SCardControl(theirs, SCARD_CTL_CODE(3400), NULL, 0, value, sizeof value, &got));
	SAY("SCardGetAttrib of the other", SCardGetAttrib(theirs, SCARD_ATTR_ATR_STRING, value, &length));
	transmit("SCardTransmit of the holder", mine, own, select_mf, sizeof select_mf);
	struct work w = { .card = theirs };
	pthread_t thread;
	pthread_create(&thread, NULL, begin, &w);
	pause_ms(300);
	SAY("SCardEndTransaction first level", SCardEndTransaction(mine, SCARD_LEAVE_CARD));
	SAY("SCardEndTransaction second level", SCardEndTransaction(mine, SCARD_LEAVE_CARD));
	pthread_join(thread, NULL);
	say("SCardBeginTransaction that waited", w.rv, "");
	SAY("SCardEndTransaction too often", SCardEndTransaction(mine, SCARD_LEAVE_CARD));
	SAY("SCardEndTransaction with reset", SCardEndTransaction(theirs, SCARD_RESET_CARD));
	status("SCardStatus of the one who reset", theirs);
	status("SCardStatus of the other after the reset", mine);
	transmit("SCardTransmit after the reset", mine, own, select_mf, sizeof select_mf);
	SAY("SCardBeginTransaction after the reset", SCardBeginTransaction(mine));
	SAY("SCardEndTransaction after the reset", SCardEndTransaction(mine, SCARD_LEAVE_CARD));
	length = sizeof value;
	SAY("SCardGetAttrib after the reset", SCardGetAttrib(mine, SCARD_ATTR_ATR_STRING, value, &length));
	SAY("SCardControl after the reset", SCardControl(mine, SCARD_CTL_CODE(3400), NULL, 0, value, sizeof value, &got));
	say_reconnect("SCardReconnect after the reset", mine, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD);
	status("SCardStatus after reconnecting", mine);
	say_reconnect("SCardReconnect of the one who reset", theirs, SCARD_SHARE_SHARED, any, SCARD_LEAVE_CARD);
	say_reconnect("SCardReconnect to exclusive beside another", mine, SCARD_SHARE_EXCLUSIVE, any, SCARD_LEAVE_CARD);
	SAY("SCardDisconnect with reset", SCardDisconnect(theirs, SCARD_RESET_CARD));
	status("SCardStatus of the one who stays", mine);
	say_reconnect("SCardReconnect to exclusive alone", mine, SCARD_SHARE_EXCLUSIVE, any, SCARD_LEAVE_CARD);
	say_connect("SCardConnect shared beside exclusive", second, SCARD_SHARE_SHARED, any);
	say_connect("SCardConnect direct beside exclusive", second, SCARD_SHARE_DIRECT, 0);
	say_connect("SCardConnect exclusive beside exclusive", second, SCARD_SHARE_EXCLUSIVE, any);
	change("SCardGetStatusChange of an exclusive reader", second, 0, reader, SCARD_STATE_UNAWARE);
	SAY("SCardDisconnect exclusive", SCardDisconnect(mine, SCARD_LEAVE_CARD));
	mine = say_connect("SCardConnect shared", context, SCARD_SHARE_SHARED, any);
	say_connect("SCardConnect exclusive beside shared", second, SCARD_SHARE_EXCLUSIVE, any);
	SAY("SCardBeginTransaction before disconnecting", SCardBeginTransaction(mine));
	SAY("SCardDisconnect in a transaction", SCardDisconnect(mine, SCARD_LEAVE_CARD));
	theirs = say_connect("SCardConnect after it", second, SCARD_SHARE_SHARED, any);
	SAY("SCardBeginTransaction after it", SCardBeginTransaction(theirs));
	SAY("SCardReleaseContext in a transaction", SCardReleaseContext(second));
	status("SCardStatus of a handle whose context is gone", theirs);
}

/* A process dies while it holds the card; those who are left find it reset. */
static void deaths(SCARDCONTEXT context, DWORD share, const char *how)
{
	const DWORD any = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1;
	int ready[2];
	char what[100], byte = 0;
	if (pipe(ready) != 0)
		exit(2);
	pid_t child = fork();
	if (child == 0) {
		SCARDCONTEXT c;
		SCARDHANDLE card;
		DWORD active;
		if (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &c) != SCARD_S_SUCCESS ||
		    connect_to(c, reader, share, any, &card, &active) != SCARD_S_SUCCESS)
			_exit(1);
		if (share == SCARD_SHARE_SHARED && SCardBeginTransaction(card) != SCARD_S_SUCCESS)
			_exit(1);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	ssize_t got = read(ready[0], &byte, 1);
	close(ready[0]);
	snprintf(what, sizeof what, "child that holds the card %s", how);
	say(what, got == 1 ? 0 : -1, "");
	SCARDHANDLE card = 0;
	if (share == SCARD_SHARE_EXCLUSIVE)
		say_connect("SCardConnect beside it", context, SCARD_SHARE_SHARED, any);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	pause_ms(500);
	card = say_connect("SCardConnect after its death", context, SCARD_SHARE_SHARED, any);
	status("SCardStatus after its death", card);
	SAY("SCardBeginTransaction after its death", SCardBeginTransaction(card));
	SAY("SCardEndTransaction after its death", SCardEndTransaction(card, SCARD_LEAVE_CARD));
	SAY("SCardDisconnect", SCardDisconnect(card, SCARD_LEAVE_CARD));
}

/* A card that is put in as the reader appears may come a moment later. */
static void await_card(SCARDCONTEXT context)
{
	SCARD_READERSTATE s = { .szReader = reader };
	while (SCardGetStatusChange(context, 20000, &s, 1) == SCARD_S_SUCCESS && !(s.dwEventState & SCARD_STATE_PRESENT))
		s.dwCurrentState = s.dwEventState;
}

int main(void)
{
	SCARDCONTEXT context;
	/* What hangs is a finding too. */
	alarm(60);
	contexts();
	if (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context) != SCARD_S_SUCCESS)
		return 1;
	lists(context);
	await_card(context);
	connecting(context);
	old_protocols(context);
	reconnecting(context);
	transmitting(context);
	states(context);
	attributes(context);
	transactions(context);
	deaths(context, SCARD_SHARE_SHARED, "in a transaction");
	deaths(context, SCARD_SHARE_EXCLUSIVE, "alone");
	SAY("SCardReleaseContext", SCardReleaseContext(context));
	SAY("SCardReleaseContext twice", SCardReleaseContext(context));
	return 0;
}
