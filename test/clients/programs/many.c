/*
 * Many clients at once: each is a context with a connection of its own to the daemon, connects to the first reader, sends a
 * command, and stays until all have done so; then each does that again in a transaction. Prints how many did.
 *
 * usage: many CLIENTS
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winscard.h>

static pthread_barrier_t all;
static char reader[128];

struct client { int number, failed; const char *function; LONG rv; };

#define TRY(call) do { if (!c->failed && (c->rv = (call)) != SCARD_S_SUCCESS) { c->failed = 1; c->function = #call; } } while (0)

static void *work(void *p)
{
	static const BYTE select_mf[] = { 0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00 };
	struct client *c = p;
	SCARDCONTEXT context = 0;
	SCARDHANDLE card = 0;
	DWORD protocol = 0, length;
	BYTE answer[258];

	TRY(SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
	TRY(SCardConnect(context, reader, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));
	length = sizeof answer;
	TRY(SCardTransmit(card, SCARD_PCI_T1, select_mf, sizeof select_mf, NULL, answer, &length));
	pthread_barrier_wait(&all);
	TRY(SCardBeginTransaction(card));
	length = sizeof answer;
	TRY(SCardTransmit(card, SCARD_PCI_T1, select_mf, sizeof select_mf, NULL, answer, &length));
	if (!c->failed && (length != 2 || answer[0] != 0x90))
		c->failed = 1, c->function = "answer";
	TRY(SCardEndTransaction(card, SCARD_LEAVE_CARD));
	pthread_barrier_wait(&all);
	TRY(SCardDisconnect(card, SCARD_LEAVE_CARD));
	TRY(SCardReleaseContext(context));
	return NULL;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 300, good = 0;
	pthread_t *threads = calloc(n, sizeof *threads);
	struct client *clients = calloc(n, sizeof *clients);
	SCARDCONTEXT context;
	char names[4096];
	DWORD length = sizeof names;

	if (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context) != SCARD_S_SUCCESS ||
	    SCardListReaders(context, NULL, names, &length) != SCARD_S_SUCCESS)
		return 1;
	snprintf(reader, sizeof reader, "%.127s", names);
	pthread_barrier_init(&all, NULL, n);
	for (int i = 0; i < n; i++) {
		clients[i].number = i;
		if (pthread_create(&threads[i], NULL, work, &clients[i]) != 0)
			return 1;
	}
	for (int i = 0; i < n; i++) {
		pthread_join(threads[i], NULL);
		if (clients[i].failed)
			fprintf(stderr, "client %d: %s: %08lX\n", i, clients[i].function, (unsigned long)clients[i].rv);
		else
			good++;
	}
	printf("%d of %d clients\n", good, n);
	return good == n ? 0 : 1;
}
