/* What server/energy.py calls of NVML, with nvml.h's signatures, for hosts without a GPU: NVML_FIGURES names a file with
 * a line for each GPU, the millijoules that it has used, or "error" and the code that asking for them gives. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, UNKNOWN = 999 };

static int read_line(unsigned int index, char *line, int size) {
    FILE *file = fopen(getenv("NVML_FIGURES"), "r");
    int found = 0;
    if (file == NULL)
        return 0;
    for (unsigned int at = 0; at <= index; at++)
        found = fgets(line, size, file) != NULL;
    fclose(file);
    return found;
}

int nvmlInitWithFlags(unsigned int flags) {
    return flags == 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char line[64];
    for (*count = 0; read_line(*count, line, sizeof line);)
        ++*count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    char line[64];
    if (device == NULL || !read_line((unsigned int)(size_t)device - 1, line, sizeof line))
        return INVALID_ARGUMENT;
    if (strncmp(line, "error ", 6) == 0)
        return atoi(line + 6);
    return sscanf(line, "%llu", energy) == 1 ? SUCCESS : UNKNOWN;
}
