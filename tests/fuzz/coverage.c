/* Which branches of the scanner an input took: gcc calls the first function at each, with -fsanitize-coverage=trace-pc.
   Built without that option itself, linked into the scanner for the fuzzer only. */

#include <stdint.h>
#include <string.h>

enum { SIZE = 1 << 14 };
static unsigned char taken[SIZE], seen[SIZE];
static uintptr_t previous;

/* An edge is the pair of a place and the one before; how often it was taken counts by powers of two. */
void __sanitizer_cov_trace_pc(void)
{
    uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)taken;
    unsigned char *edge = &taken[((place >> 1) ^ previous) % SIZE];
    *edge += *edge < 255;
    previous = place >> 2;
}

/* How many edges were new, or taken a new number of times, since the last call. */
int coverage_gained(void)
{
    int gained = 0;
    for (int i = 0; i < SIZE; i++)
        if (taken[i]) {
            unsigned char bucket = (unsigned char)(1u << (31 - __builtin_clz(taken[i])));
            gained += !(seen[i] & bucket);
            seen[i] |= bucket;
        }
    memset(taken, 0, SIZE);
    previous = 0;
    return gained;
}
