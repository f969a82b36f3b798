# The functions that offsets lie in, each once, in the order of their first one.
# symbols: a file of "ADDRESS SIZE NAME", sorted, in hexadecimal.

function number(text,    i, value) {
    value = 0
    for (i = 1; i <= length(text); i++)
        value = value * 16 + index("0123456789abcdef", substr(text, i, 1)) - 1
    return value
}

BEGIN {
    while ((getline line < symbols) > 0) {
        split(line, field, " ")
        start[++count] = number(field[1])
        end[count] = start[count] + number(field[2])
        name[count] = field[3]
    }
}

{
    at = number($1)
    low = 1
    high = count
    while (low < high) {
        middle = int((low + high + 1) / 2)
        if (start[middle] <= at) low = middle
        else high = middle - 1
    }
    if (at < end[low] && !(low in seen)) {
        seen[low] = 1
        print name[low]
    }
}
