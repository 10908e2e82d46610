/* What the memory sanitizer is told in every test program built with it (make MSAN=1). libpng and libtiff
 * compare, measure and print bytes that they wrote themselves, and the sanitizer, which has not seen them
 * write, would report that. */
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
__attribute__((visibility("default"))) const char *__msan_default_options(void);
const char *__msan_default_options(void)
{
    return "intercept_memcmp=0:intercept_strlen=0:intercept_strcmp=0:check_printf=0";
}
#endif
#endif
