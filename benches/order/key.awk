# "KEY SYMBOL" for each symbol: its name without what the compiler's version and
# the crates' add to it, so that one list does for all builds.
{
    key = $1
    # Rust's older mangling ends in a hash, the newer has one in each crate's name.
    if (key ~ /^_ZN/) sub(/17h[0-9a-f]+E$/, "", key)
    else if (key ~ /^_R/) gsub(/Cs[0-9A-Za-z]+_/, "C_", key)
    print key, $1
}
