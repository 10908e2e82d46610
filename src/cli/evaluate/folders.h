/* The folders in a folder. */
#ifndef EFFNET_CLI_EVALUATE_FOLDERS_H
#define EFFNET_CLI_EVALUATE_FOLDERS_H

/* Their names, sorted by their bytes, which for UTF-8 is Python's order. Names that begin with a dot are left
 * out; links to folders count. *names is the caller's, for folders_free, and after a failure NULL. Reports
 * its own failure. */
int folders_list(const char *folder, char ***names, int *count);
void folders_free(char **names, int count);

#endif
