/* Whether a machine has NVIDIA's hardware, whatever CUDA says of it. */
#ifndef EFFNET_COMMON_NVIDIA_H
#define EFFNET_COMMON_NVIDIA_H

#include <stdbool.h>

/* A GPU on the PCI bus (also one that a container or a virtual machine's owner has kept for others), NVIDIA's
 * driver, WSL's or a Jetson's: anything that makes somebody expect the GPU to be used. What is read lies
 * under the folder `root`: "" is the machine's own /proc, /dev and /sys. */
bool effnet_nvidia_hardware(const char *root);

#endif
