#!/usr/bin/env bash
# Builds the static library without std, looks at its symbols, links it to a C program and runs that.
set -euo pipefail
cd "$(dirname "$0")"

cargo build --release --quiet
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
library=$target/release/libnetvsc_no_std.a

# What the library needs from elsewhere: what no member of it defines. Only what every C compiler brings may be left:
# copies and comparisons, and arithmetic wider than the machine's (which the library has as well, in members that older
# versions of nm cannot read).
symbols() { nm --format=posix "$@" "$library" 2>/dev/null | awk '$2 ~ /^[A-Za-z]$/ { print $1 }' | sort -u; }
needed=$(comm -23 <(symbols --undefined-only) <(symbols --defined-only))
foreign=$(grep -vxE 'memcpy|memmove|memset|memcmp|bcmp|__u?(div|mod|divmod|mul)[dt]i[34]|_GLOBAL_OFFSET_TABLE_' <<<"$needed" || true)
if [ -n "$foreign" ]; then
    printf 'the library needs more than it may:\n%s\n' "$foreign" >&2
    exit 1
fi
if nm --demangle "$library" 2>/dev/null | grep -E '\b(std::|__rdl_|__libc_)' >&2; then
    echo 'parts of std are in the library' >&2
    exit 1
fi

${CC:-cc} main.c "$library" -o "$target/netvsc-no-std"
timeout 60 "$target/netvsc-no-std" || { echo "the check failed: part $?" >&2; exit 1; }
echo "links without std; needs $(tr '\n' ' ' <<<"$needed")"
