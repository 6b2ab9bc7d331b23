/* What the address sanitizer is told. The environment would do, but it is read from /proc, which a chroot may not have.
   Loaded in front of the sanitizer's library, which would look at its place first of all. */

const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "detect_leaks=0:" /* the interpreter leaks on purpose */
           "detect_stack_use_after_return=1:" /* frames then lie among other memory, not above all of it */
           "verify_asan_link_order=0";
}
