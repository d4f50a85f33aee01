# Rows of a table, from a log of tftpd -vv: what the clients of a boot asked for, and how
# it ended. Requests that differ only in the name share a row.
function field(name,    at) {
    at = index($0, " " name "=")
    if (!at) return ""
    at = substr($0, at + length(name) + 2)
    sub(/ .*/, "", at)
    gsub(/"/, "", at)
    return at
}
# Adds this peer's request, and how it ended, to a row.
function note(peer, end,    key) {
    key = asked[peer] " | " end
    if (!(key in count)) order[++keys] = key
    if (!(key in count) || turn[peer] < turn_of[key]) {
        first[key] = file[peer]
        turn_of[key] = turn[peer]
    }
    count[key]++
    bytes[key] += field("bytes")
    repeats[key] += field("retransmits")
    delete asked[peer]
}
/ received (RRQ|WRQ) </ {
    text = $0
    sub(/.* received /, "", text)
    sub(/>$/, "", text)
    kind = substr(text, 1, 3)
    name = text
    sub(/^... <file=/, "", name)
    options = name
    sub(/, mode=.*/, "", name)
    sub(/.*, mode=/, "", options)
    asked[$3] = kind " " options
    file[$3] = name
    turn[$3] = NR
}
# Refusals of a search share a line.
/ searched peer=/ {
    directory = field("directory")
    found = directory field("found")
    for (peer in asked)
        if (index(file[peer], directory) == 1 && file[peer] != found) note(peer, "missed")
    next
}
/ (ended|refused) peer=/ {
    peer = field("peer")
    if (!(peer in asked)) next
    note(peer, / refused / ? "refused, code " field("code") : field("outcome"))
}
END {
    for (i = 1; i <= keys; i++) {
        key = order[i]
        names = first[key]
        if (count[key] > 1) names = names " and " count[key] - 1 " more"
        printf "| %s | %s | %s | %d | %d |\n", boot, names, key, bytes[key], repeats[key]
    }
}
