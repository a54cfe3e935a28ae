/*
 * What calls cost: each client is a process with a context of its own. Prints lines "KEY VALUE"; times are in microseconds.
 *
 * usage: cost transmit|transaction|connect CLIENTS MILLISECONDS
 *        cost idle CLIENTS       holds contexts, until its standard input ends
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <winscard.h>

#define SAMPLES 16384	/* of each step, kept by each client: the latest */
#define STEPS 4

/* step is one kind of call. */
struct step { unsigned long calls; double worst, us[SAMPLES]; };

/* client is what a process leaves. */
struct client { double begin, end; struct step steps[STEPS]; };

struct shared { pthread_barrier_t start; struct client clients[]; };

static struct shared *shared;
static double limit;	/* in microseconds */
static SCARDCONTEXT context;
static SCARDHANDLE card;
static char reader[128];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void must(LONG rv, const char *call)
{
	if (rv == SCARD_S_SUCCESS)
		return;
	fprintf(stderr, "%s: %08lX\n", call, (unsigned long)rv & 0xFFFFFFFFUL);
	exit(1);
}
#define MUST(call) must((call), #call)

/* took notes one call and returns when it ended. */
static double took(struct step *s, double begin)
{
	double end = now(), us = end - begin;
	s->us[s->calls++ % SAMPLES] = us;
	if (us > s->worst)
		s->worst = us;
	return end;
}

static void establish(void) { MUST(SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context)); }

static void connect_card(void)
{
	DWORD protocol;
	MUST(SCardConnect(context, reader, SCARD_SHARE_SHARED, SCARD_PROTOCOL_T1, &card, &protocol));
}

static void transmit(void)
{
	static const BYTE select_mf[] = { 0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00 };
	BYTE answer[258];
	DWORD length = sizeof answer;
	MUST(SCardTransmit(card, SCARD_PCI_T1, select_mf, sizeof select_mf, NULL, answer, &length));
	if (length != 2 || answer[0] != 0x90)
		must(SCARD_E_UNEXPECTED, "answer");
}

static double once_transmit(struct client *c, double t)
{
	transmit();
	return took(&c->steps[0], t);
}

static double once_transaction(struct client *c, double t)
{
	double begin = t;
	MUST(SCardBeginTransaction(card));
	took(&c->steps[1], begin);
	transmit();
	MUST(SCardEndTransaction(card, SCARD_LEAVE_CARD));
	return took(&c->steps[0], begin);
}

static double once_connect(struct client *c, double t)
{
	establish();
	t = took(&c->steps[0], t);
	connect_card();
	t = took(&c->steps[1], t);
	MUST(SCardDisconnect(card, SCARD_LEAVE_CARD));
	t = took(&c->steps[2], t);
	MUST(SCardReleaseContext(context));
	return took(&c->steps[3], t);
}

static const struct mode {
	const char *name;
	double (*once)(struct client *, double);
	int connected;	/* before it starts */
	const char *steps[STEPS];
} modes[] = {
	{ "transmit", once_transmit, 1, { "transmit" } },
	{ "transaction", once_transaction, 1, { "transaction", "begin" } },
	{ "connect", once_connect, 0, { "establish", "connect", "disconnect", "release" } },
};

static void first_reader(void)
{
	char names[4096];
	DWORD length = sizeof names;
	MUST(SCardListReaders(context, NULL, names, &length));
	snprintf(reader, sizeof reader, "%.127s", names);
}

static void work(const struct mode *m, struct client *c)
{
	double t;

	establish();
	first_reader();
	if (m->connected)
		connect_card();
	else
		MUST(SCardReleaseContext(context));
	pthread_barrier_wait(&shared->start);
	t = c->begin = now();
	while (t < c->begin + limit)
		t = m->once(c, t);
	c->end = t;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void report(const struct mode *m, int n)
{
	double *all = malloc(n * SAMPLES * sizeof *all), begin = shared->clients[0].begin, end = 0;

	for (int i = 0; i < n; i++) {
		if (shared->clients[i].begin < begin)
			begin = shared->clients[i].begin;
		if (shared->clients[i].end > end)
			end = shared->clients[i].end;
	}
	for (int s = 0; s < STEPS && m->steps[s]; s++) {
		unsigned long kept = 0, calls = 0;
		double worst = 0;
		for (int i = 0; i < n; i++) {
			struct step *step = &shared->clients[i].steps[s];
			unsigned long k = step->calls < SAMPLES ? step->calls : SAMPLES;
			memcpy(all + kept, step->us, k * sizeof *all);
			kept += k, calls += step->calls;
			if (step->worst > worst)
				worst = step->worst;
		}
		if (kept == 0)
			exit(1);
		qsort(all, kept, sizeof *all, ascending);
		printf("%s-calls %lu\n%s-median %.2f\n%s-worst %.0f\n", m->steps[s], calls, m->steps[s], all[kept / 2], m->steps[s], worst);
		if (s == 0)
			printf("rate %.0f\n", calls / (end - begin) * 1e6);
	}
}

static int measure(const struct mode *m, int n)
{
	pthread_barrierattr_t attributes;
	int status;

	shared = mmap(NULL, sizeof *shared + n * sizeof(struct client), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&shared->start, &attributes, n);
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();
		if (pid < 0)
			return 1;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			work(m, &shared->clients[i]);
			_exit(0);
		}
	}
	while (wait(&status) > 0) {
		if (status != 0)
			return 1;	/* which ends the others */
	}
	report(m, n);
	return 0;
}

static int idle(int n)
{
	for (int i = 0; i < n; i++)
		establish();
	printf("ready\n");
	fflush(stdout);
	return getchar() != EOF;
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 0;

	if (argc == 3 && n > 0 && strcmp(argv[1], "idle") == 0)
		return idle(n);
	for (size_t i = 0; argc == 4 && n > 0 && i < sizeof modes / sizeof *modes; i++) {
		if (strcmp(argv[1], modes[i].name) == 0) {
			limit = atof(argv[3]) * 1000;
			return measure(&modes[i], n);
		}
	}
	fprintf(stderr, "usage: cost transmit|transaction|connect CLIENTS MILLISECONDS | cost idle CLIENTS\n");
	return 2;
}
