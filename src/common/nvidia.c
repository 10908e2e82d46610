#include "common/nvidia.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool exists(const char *root, const char *name)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s%s", root, name) < (int)sizeof path && access(path, F_OK) == 0;
}

/* The hexadecimal number in a PCI device's file, or 0. */
static unsigned read_hex(const char *folder, const char *device, const char *name)
{
    char path[PATH_MAX];
    unsigned value = 0;
    if (snprintf(path, sizeof path, "%s/%s/%s", folder, device, name) >= (int)sizeof path) return 0;
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    if (fscanf(file, "%x", &value) != 1) value = 0;
    fclose(file);
    return value;
}

/* NVIDIA also makes network cards, and its GPUs have sound and USB functions: display controllers count. */
static bool on_pci_bus(const char *root)
{
    enum { NVIDIA = 0x10de, DISPLAY = 0x03 };
    char folder[PATH_MAX];
    if (snprintf(folder, sizeof folder, "%s/sys/bus/pci/devices", root) >= (int)sizeof folder) return false;
    DIR *devices = opendir(folder);
    bool found = false;
    for (struct dirent *entry; devices && !found && (entry = readdir(devices));)
        found = entry->d_name[0] != '.' && read_hex(folder, entry->d_name, "vendor") == NVIDIA &&
                read_hex(folder, entry->d_name, "class") >> 16 == DISPLAY;
    if (devices) closedir(devices);
    return found;
}

bool effnet_nvidia_hardware(const char *root)
{
    static const char *const signs[] = {
        "/proc/driver/nvidia/version",
        "/dev/nvidiactl",
        "/dev/nvidia0", /* the driver, in a container too */
        "/dev/nvhost-gpu",
        "/dev/nvgpu",
        "/dev/nvmap", /* Jetson: not on PCI */
    };
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (exists(root, signs[i])) return true;
    /* Under WSL any maker's GPU is /dev/dxg; this library is there where Windows has NVIDIA's driver. */
    if (exists(root, "/dev/dxg") && exists(root, "/usr/lib/wsl/lib/libcuda.so.1")) return true;
    return on_pci_bus(root);
}
