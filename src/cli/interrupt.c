#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#include "common/thread.h"

enum { PATIENCE_SECONDS = 3 };

static sigset_t caught, before;
static atomic_int came;    /* the signal, or 0 */
static atomic_bool ending; /* the next signal is from interrupt_end */
static pthread_t thread;
static void (*call)(void *);
static void *call_context;

static void die(int number)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    signal(number, SIG_DFL);
    raise(number);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
}

static void *wait_for_signal(void *unused)
{
    (void)unused;
    int number = 0;
    if (sigwait(&caught, &number) || atomic_load(&ending)) return NULL;
    atomic_store(&came, number);
    call(call_context);
    const struct timespec patience = {.tv_sec = PATIENCE_SECONDS};
    int second = sigtimedwait(&caught, NULL, &patience);
    die(second > 0 ? second : number);
    return NULL;
}

static void add_unless_ignored(int number)
{
    struct sigaction action;
    if (!sigaction(number, NULL, &action) && action.sa_handler != SIG_IGN) sigaddset(&caught, number);
}

bool interrupt_begin(void (*stop)(void *context), void *context)
{
    call = stop;
    call_context = context;
    sigemptyset(&caught);
    add_unless_ignored(SIGINT);
    add_unless_ignored(SIGTERM);
    if (sigisemptyset(&caught)) return true;
    pthread_sigmask(SIG_BLOCK, &caught, &before);
    if (!effnet_thread_start(&thread, wait_for_signal, NULL)) return true;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sigemptyset(&caught);
    return false;
}

bool interrupt_came(void)
{
    return atomic_load(&came) != 0;
}

void interrupt_end(void)
{
    if (sigisemptyset(&caught)) return;
    if (interrupt_came()) die(atomic_load(&came));
    atomic_store(&ending, true);
    pthread_kill(thread, sigismember(&caught, SIGINT) ? SIGINT : SIGTERM);
    pthread_join(thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
