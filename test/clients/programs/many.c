/*
 * Many clients at once: each is a process with a context, that is, a connection of its own to the daemon. It connects to the
 * first reader, sends a command, and stays until all have done so; then each does that again in a transaction. Prints how
 * many did. They are processes and not threads, as libpcsclite before 2.4 has races between contexts of one process.
 *
 * usage: many CLIENTS
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <winscard.h>

static pthread_barrier_t *all;
static char reader[128];

#define TRY(call) do { if (!failed) { LONG rv = (call); if (rv != SCARD_S_SUCCESS) { \
	failed = 1; fprintf(stderr, "client %d: %s: %08lX\n", number, #call, (unsigned long)rv & 0xFFFFFFFFul); } } } while (0)

static int work(int number)
{
	static const BYTE select_mf[] = { 0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00 };
	SCARDCONTEXT context = 0;
	SCARDHANDLE card = 0;
	DWORD protocol = 0, length;
	BYTE answer[258] = { 0 };
	int failed = 0;

	TRY(SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context));
	TRY(SCardConnect(context, reader, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1, &card, &protocol));
	length = sizeof answer;
	TRY(SCardTransmit(card, SCARD_PCI_T1, select_mf, sizeof select_mf, NULL, answer, &length));
	pthread_barrier_wait(all);
	TRY(SCardBeginTransaction(card));
	length = sizeof answer;
	TRY(SCardTransmit(card, SCARD_PCI_T1, select_mf, sizeof select_mf, NULL, answer, &length));
	TRY(length == 2 && answer[0] == 0x90 ? SCARD_S_SUCCESS : SCARD_F_UNKNOWN_ERROR);
	TRY(SCardEndTransaction(card, SCARD_LEAVE_CARD));
	pthread_barrier_wait(all);
	TRY(SCardDisconnect(card, SCARD_LEAVE_CARD));
	TRY(SCardReleaseContext(context));
	return failed;
}

/* The first reader's name. The context is released, so that the children have nothing of it. */
static int find(void)
{
	SCARDCONTEXT context;
	char names[4096];
	DWORD length = sizeof names;
	if (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context) != SCARD_S_SUCCESS ||
	    SCardListReaders(context, NULL, names, &length) != SCARD_S_SUCCESS)
		return 0;
	snprintf(reader, sizeof reader, "%.127s", names);
	return SCardReleaseContext(context) == SCARD_S_SUCCESS;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 300, good = 0, status;
	pthread_barrierattr_t shared;

	all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	if (all == MAP_FAILED || pthread_barrier_init(all, &shared, n) != 0 || !find())
		return 1;
	for (int i = 0; i < n; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(work(i));
		if (child < 0)
			return 1;
	}
	for (int i = 0; i < n; i++)
		if (wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
			good++;
	printf("%d of %d clients\n", good, n);
	return good == n ? 0 : 1;
}
