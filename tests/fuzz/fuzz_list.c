/* Any text as a list of names: the names that a plain loop finds in it, from a file or as a pipe brings them,
 * in one piece or in shards, or a failure where that loop finds one. A byte 1 stands for LONG letters. */
#include "fuzz.h"
#include "pipeline/list.h"
#include "pipeline/walk.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LONG = 21900, MOST_TEXT = 90000, MOST_NAMES = 4096, FLAG_NULL = 1, FLAG_PIPE = 2 };

struct names {
    int count, status; /* status: what the list ends with */
    const char *name[MOST_NAMES];
};

static struct names expected;
static char text[MOST_TEXT], split[MOST_TEXT + 1];

static size_t expand(const uint8_t *data, size_t size)
{
    size_t length = 0;
    for (size_t i = 0; i < size; i++) {
        const size_t count = data[i] == 1 ? LONG : 1;
        if (length + count > MOST_TEXT) break;
        memset(text + length, data[i] == 1 ? 'y' : data[i], count);
        length += count;
    }
    return length;
}

/* Fills in `expected` from the text, of which `split` becomes a copy with NULs. */
static void find_names(size_t length, bool null)
{
    const char separator = null ? '\0' : '\n';
    expected = (struct names){0};
    memcpy(split, text, length);
    split[length] = separator;
    for (size_t at = 0, end; at < length && expected.count < MOST_NAMES; at = end + 1) {
        for (end = at; split[end] != separator; end++)
            if (!split[end]) expected.status = EFFNET_E_DATA;
        if (end - at > LIST_NAME_MAX) expected.status = EFFNET_E_DATA;
        if (expected.status) return;
        split[end] = '\0';
        char *name = split + at;
        if (!null && at == 0 && !strncmp(name, "\xef\xbb\xbf", 3)) name += 3;
        if (!null && end > at && split + end > name && split[end - 1] == '\r') split[end - 1] = '\0';
        if (*name) expected.name[expected.count++] = name;
    }
}

/* Standard input becomes a socket that brings the text in packets, as read() sees a pipe's writes. */
static void fill_standard_input(size_t length, size_t packet)
{
    int ends[2];
    CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    if (packet < length / 20) packet = length / 20 + 1; /* a socket holds so many packets of any size */
    for (size_t at = 0; at < length; at += packet) {
        const size_t size = length - at < packet ? length - at : packet;
        CHECK(write(ends[1], text + at, size) == (ssize_t)size);
    }
    close(ends[1]);
    CHECK(dup2(ends[0], STDIN_FILENO) == STDIN_FILENO);
    close(ends[0]);
}

static void check_list(const char *path, bool null)
{
    struct list *list;
    struct effnet_error error;
    const char *name;
    CHECK(!list_open(path, null, &list, &error));
    for (int i = 0; i < expected.count; i++) {
        CHECK(list_next(list, &name, &error) == 1);
        CHECK(!strcmp(name, expected.name[i]));
    }
    if (expected.count < MOST_NAMES) CHECK(list_next(list, &name, &error) == expected.status);
    list_close(list);
}

static void check_shards(const char *path, bool null, int count)
{
    struct walk_options options = {.list = path, .null = null};
    int at = 0;
    for (int number = 1; number <= count; number++) {
        struct walk *walk;
        struct walk_entry entry;
        struct effnet_error error;
        options.shard = (struct shard){number, count};
        const int status = walk_open(&options, &walk, &error);
        CHECK(status == (count > 1 ? expected.status : EFFNET_OK));
        if (status) return;
        int found;
        while ((found = walk_next(walk, &entry, &error)) > 0) {
            const char *name = strcmp(expected.name[at], "-") ? expected.name[at] : "./-";
            CHECK(!strcmp(entry.path, name) && !entry.found && entry.done <= 1);
            at++;
        }
        CHECK(found == expected.status);
        walk_close(walk);
    }
    CHECK(at == expected.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    const uint8_t flags = data[--size], packet = data[--size];
    const bool null = flags & FLAG_NULL;
    const size_t length = expand(data, size);
    find_names(length, null);
    if (flags & FLAG_PIPE) {
        fill_standard_input(length, packet + 1);
        check_list("-", null);
    }
    const char *path = fuzz_file(text, length);
    check_list(path, null);
    if (expected.count < MOST_NAMES) check_shards(path, null, 1 + (flags >> 2 & 3));
    return 0;
}
