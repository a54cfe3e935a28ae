/*
 * Loaded into QEMU before its libraries: no thread waits for a condition longer than 10 ms without looking once more. POSIX allows
 * such wake-ups. QEMU's ccid-card-emulated has a thread that misses the signal for a command, or for its end, which comes just as it
 * has answered: the card never answers then, or answers the next command with what it owed, or QEMU waits for ever in device_del.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <time.h>

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	const long limit = 10000000, second = 1000000000;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (until.tv_nsec + limit) / second;
	until.tv_nsec = (until.tv_nsec + limit) % second;
	int result = pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &until);
	return result == ETIMEDOUT ? 0 : result;
}
