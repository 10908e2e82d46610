/* What fork leaves to a child: the memory and the thread that forked, but no other thread, whatever it held.
 */
#ifndef EFFNET_COMMON_FORK_H
#define EFFNET_COMMON_FORK_H

/* How many calls of fork lie between the process that asked first and this one. An object that keeps the
 * number from when it was made belongs to this process while the number is the same; in a child it differs,
 * and the object's threads are not there. */
int effnet_fork_count(void);

/* Between these two, fork waits: for work on what is shared by all of a library, which a child would find
 * half done or locked for ever. Any number of threads may be inside at once; one that is inside neither forks
 * nor enters again. */
void effnet_fork_block(void);
void effnet_fork_unblock(void);

#endif
