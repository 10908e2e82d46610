/* What the memory sanitizer is told in every test program built with it (make MSAN=1). libpng compares bytes
 * that it wrote itself by memcmp, and the sanitizer, which has not seen it write them, would report that. */
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
__attribute__((visibility("default"))) const char *__msan_default_options(void);
const char *__msan_default_options(void)
{
    return "intercept_memcmp=0";
}
#endif
#endif
