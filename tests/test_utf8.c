/* UTF-8 read byte by byte, and text cut between characters. */
#include "common/error.h"
#include "common/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* RFC 3629's rule the other way round: writes a code point, returns its bytes. */
static int encode(unsigned code, char *to)
{
    if (code < 0x80) return to[0] = (char)code, 1;
    if (code < 0x800) return to[0] = (char)(0xc0 | code >> 6), to[1] = (char)(0x80 | (code & 63)), 2;
    if (code < 0x10000) {
        to[0] = (char)(0xe0 | code >> 12);
        to[1] = (char)(0x80 | (code >> 6 & 63));
        to[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | code >> 18);
    to[1] = (char)(0x80 | (code >> 12 & 63));
    to[2] = (char)(0x80 | (code >> 6 & 63));
    to[3] = (char)(0x80 | (code & 63));
    return 4;
}

static void test_every_code_point(void **state)
{
    (void)state;
    for (unsigned code = 1; code < 0x120000; code++) {
        char text[8] = "";
        unsigned found = 0;
        int length = encode(code, text);
        text[length] = 'x';
        bool valid = code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
        assert_int_equal(effnet_utf8_length(text, &found), valid ? length : 0);
        assert_int_equal(found, valid ? code : 0);
        assert_int_equal(effnet_utf8_length(text, NULL), valid ? length : 0);
        for (int cut = 1; cut < length; cut++) { /* the text ends within, or goes on with something else */
            char part[8] = "";
            memcpy(part, text, (size_t)cut);
            assert_int_equal(effnet_utf8_length(part, NULL), 0);
            part[cut] = 'x';
            assert_int_equal(effnet_utf8_length(part, NULL), 0);
        }
    }
}

static void test_no_sequences(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\x80",         "\xbf",         "\xc0\xaf",         "\xc1\xbf",
        "\xe0\x80\xaf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf5\x80\x80\x80",
        "\xfe",         "\xff"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(effnet_utf8_length(texts[i], NULL), 0);
}

/* Cuts a text of mixed characters to every size: what is kept is an end or a start of it, as long as
 * characters allow, and nothing beyond the room is written. */
static void test_cutting(void **state)
{
    (void)state;
    static const char text[] =
        "/caf\xc3\xa9/\xe2\x82\xac\xe2\x82\xac/\xf0\x9f\x96\xbc\xf0\x9f\x96\xbc/x\xcc\x88.jpg";
    size_t length = strlen(text);
    for (size_t size = 8; size < length + 4; size++) {
        char to[64];
        for (int at_end = 0; at_end < 2; at_end++) {
            memset(to, 'Z', sizeof to);
            char *got = at_end ? effnet_keep_end(to, size, text) : effnet_keep_start(to, size, text);
            assert_ptr_equal(got, to);
            assert_int_equal(to[size], 'Z');
            if (size > length) {
                assert_string_equal(to, text);
                continue;
            }
            size_t kept = strlen(to) - 3;
            const char *part = at_end ? to + 3 : to;
            assert_memory_equal(at_end ? to : to + kept, "...", 3);
            assert_true(kept <= size - 4 && kept > size - 8);
            assert_memory_equal(part, at_end ? text + length - kept : text, kept);
            for (size_t i = 0; i < kept;) { /* whole characters */
                char rest[64] = "";
                memcpy(rest, part + i, kept - i);
                int bytes = effnet_utf8_length(rest, NULL);
                assert_true(bytes > 0);
                i += (size_t)bytes;
            }
        }
    }
}

/* Bytes that are no UTF-8 are cut anywhere. */
static void test_cutting_bytes(void **state)
{
    (void)state;
    char text[40], to[16];
    memset(text, 0x80, sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(strlen(effnet_keep_end(to, sizeof to, text)), sizeof to - 1);
    assert_int_equal(strlen(effnet_keep_start(to, sizeof to, text)), sizeof to - 1);
    memset(text, 0xe2, sizeof text - 1);
    assert_int_equal(strlen(effnet_keep_end(to, sizeof to, text)), sizeof to - 1);
}

/* A message that is too long says so, and does not end within a character. */
static void test_messages(void **state)
{
    (void)state;
    char name[700];
    for (size_t shift = 0; shift < 4; shift++) {
        struct effnet_error error;
        memset(name, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof name; i += 4) memcpy(name + i, "\xf0\x9f\x96\xbc", 5);
        assert_int_equal(effnet_fail(&error, EFFNET_E_DATA, "%s: reason", name), EFFNET_E_DATA);
        size_t length = strlen(error.message);
        assert_true(length > sizeof error.message - 5 && (length - 3 - shift) % 4 == 0);
        assert_string_equal(error.message + length - 3, "...");
    }
    struct effnet_error error;
    effnet_fail(&error, EFFNET_E_DATA, "%s\n%c", "caf\xc3\xa9", 7);
    assert_string_equal(error.message, "caf\xc3\xa9??");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point), cmocka_unit_test(test_no_sequences),
        cmocka_unit_test(test_cutting),          cmocka_unit_test(test_cutting_bytes),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
