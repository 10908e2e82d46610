/* Finding shared libraries of NVIDIA's. */
#ifndef EFFNET_BACKEND_CUDA_TOOLKIT_H
#define EFFNET_BACKEND_CUDA_TOOLKIT_H

enum { TOOLKIT_REASON = 256 };

/* Opens the library of that path, or by the loader's own search where it is a name alone; NULL: it cannot.
 * The first failure's reason stays in `reason`, "" before, since later ones only say that a file does not
 * exist. */
void *toolkit_open_path(char reason[TOOLKIT_REASON], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* By the loader's search, then in the folders where CUDA usually is. */
void *toolkit_open(const char *name, char reason[TOOLKIT_REASON]);

#endif
