# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_tftpd_global_optspecs
    string join \n p/port= a/address= interface= 4/ipv4 6/ipv6 R/port-range= single-port reuse-port answer-broadcast t/timeout= retries= B/max-blksize= max-windowsize= r/refuse= busy-poll= read-only overwrite max-upload= U/umask= m/map-file= map-test= rules= rules-test= helper= helper-socket= ask= ask-missing ask-timeout= per-client-root= follow-links= ignore-case allow= deny= max-sessions= max-sessions-per-client= max-unproved-rate= keep-versions= version-format= create-dirs upload-root= write-only fsync max-upload-total= min-free= u/user= chroot no-sandbox P/pid-file= workers= grace= idle-exit= v/verbose q/quiet log-file= log-format= syslog= status= c/create s/secure j/jail l/listen L/foreground h/help V/version
end

function __fish_tftpd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tftpd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_tftpd_using_subcommand
    set -l cmd (__fish_tftpd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c tftpd -n "__fish_tftpd_needs_command" -s p -l port -d 'UDP port to listen on; 0 picks a free one' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s a -l address -d 'Address, interface or host name to listen on; can be repeated [default: all, IPv4 and IPv6]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l interface -d 'Receive and send by this interface or VRF alone, transfers too [default: all]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s R -l port-range -d 'Ports to use for transfers [default: any free port above 1023]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s t -l timeout -d 'Milliseconds to wait for an answer before sending again, or a time such as 2s; doubles each time [default: follows the measured round trip]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l retries -d 'How often to repeat a packet before giving up' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s B -l max-blksize -d 'Largest block size to agree to, in bytes' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l max-windowsize -d 'Largest window to agree to, in blocks' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s r -l refuse -d 'TFTP option to ignore, as if it were unknown; can be repeated' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l busy-poll -d 'Spin for up to this many microseconds waiting for an answer before sleeping; 0 disables spinning' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l max-upload -d 'Largest upload, in bytes or with K, M, G or T [default: no limit]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s U -l umask -d 'Permission bits to clear on new files [default: the process\'s own umask]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s m -l map-file -d 'Rules that rewrite requested names, in tftp-hpa\'s language' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l map-test -d 'Show what the rules in FILE do to the names on standard input, and exit' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l rules -d 'Rules by client: directories, rights, options and limits, by network, interface or hardware address' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l rules-test -d 'Show what the rules by client in FILE mean for the clients and names on standard input, and exit' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l helper -d 'Program that is told what happens and asked what to serve, for /bin/sh; started again when it ends' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l helper-socket -d 'Unix socket of a service that is told and asked the same' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l ask -d 'Names that the helper is asked about, as a pattern such as grub/*.cfg; can be repeated' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l ask-timeout -d 'Milliseconds to wait for the helper\'s answer, or a time such as 2s; then the request is served as without it' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l per-client-root -d 'Serve each client from its own directory below ROOT, named after its address, if there is one; otherwise from ROOT' -r -f -a "ip\t'Its IP address: `192.0.2.1`, `2001:db8::1`'
mac\t'Its hardware address: `aa-bb-cc-dd-ee-ff`'"
complete -c tftpd -n "__fish_tftpd_needs_command" -l follow-links -d 'Directory outside ROOT that links below ROOT may lead to when a file is read; can be repeated [default: none]' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l allow -d 'Network to serve; can be repeated [default: all]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l deny -d 'Network not to serve, even if allowed; can be repeated [default: none]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l max-sessions -d 'Most transfers at once; further requests are dropped [default: as many as the limit on open files allows; with --single-port, as memory allows]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l max-sessions-per-client -d 'Most transfers at once with one client; further requests are dropped [default: no limit]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l max-unproved-rate -d 'With --single-port or few ports: bytes a second, or with K, M, G or T, for all clients of a network (IPv4 /24, IPv6 /64) that haven\'t shown that they are there; 0: no limit' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l keep-versions -d 'Let uploads replace existing files, and keep the last N versions of each as FILE.~1~, FILE.~2~ and so on, the newest with the highest number' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l version-format -d 'With --keep-versions: name versions after the time (UTC) when they were written, such as %Y-%m-%dT%H%M%S, instead of numbering them' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l upload-root -d 'Directory that uploads go to, below ROOT or elsewhere [default: ROOT]' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l max-upload-total -d 'Largest size of all files where uploads go, in bytes or with K, M, G or T [default: no limit]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l min-free -d 'Refuse uploads that would leave less free space on the disk: in bytes, with K, M, G or T, such as 500M, or as a percentage, such as 5% [default: 0]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s u -l user -d 'Run as this user and group (name or number); must be started as root [default: the user that started it; the user\'s own group]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s P -l pid-file -d 'Write the process ID to FILE, and delete FILE at exit' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l workers -d 'Number of worker processes, or auto: one per processor; the kernel spreads clients among them. SIGUSR2 replaces them without dropping a transfer' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l grace -d 'Seconds that running transfers may take to finish after SIGTERM or SIGINT, or a time such as 2m' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l idle-exit -d 'Exit after this many seconds without a transfer or a request, or a time such as 10m [default: never; 900 under inetd]' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -l log-file -d 'Append the log to FILE instead of standard error' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l log-format -d 'Format of log lines: text, or one JSON object each' -r -f -a "text\t'Time, level and text'
json\t'One JSON object'"
complete -c tftpd -n "__fish_tftpd_needs_command" -l syslog -d 'Log to the syslog, through /dev/log or another SOCKET' -r -F
complete -c tftpd -n "__fish_tftpd_needs_command" -l status -d 'Show the status over HTTP: a page, /status.json, /metrics, /healthz. A bare PORT listens on loopback; a value with a slash is a Unix socket. With --workers each has its own: PORT, PORT+1 and so on, or SOCKET, SOCKET.2' -r
complete -c tftpd -n "__fish_tftpd_needs_command" -s 4 -l ipv4 -d 'Listen on IPv4 only'
complete -c tftpd -n "__fish_tftpd_needs_command" -s 6 -l ipv6 -d 'Listen on IPv6 only'
complete -c tftpd -n "__fish_tftpd_needs_command" -l single-port -d 'Use the listening port for all transfers: for clients behind NAT, for containers, firewalls and load balancers'
complete -c tftpd -n "__fish_tftpd_needs_command" -l reuse-port -d 'Let several servers of the same user share the port; the kernel spreads clients among them'
complete -c tftpd -n "__fish_tftpd_needs_command" -l answer-broadcast -d 'Answer read requests that were sent to a broadcast address, if the file is there'
complete -c tftpd -n "__fish_tftpd_needs_command" -l read-only -d 'Refuse all uploads'
complete -c tftpd -n "__fish_tftpd_needs_command" -l overwrite -d 'Let uploads replace existing files'
complete -c tftpd -n "__fish_tftpd_needs_command" -l ask-missing -d 'Ask the helper about every file to be read that isn\'t there'
complete -c tftpd -n "__fish_tftpd_needs_command" -l ignore-case -d 'If there is no file of exactly that name, look for one that differs only in the case of its letters'
complete -c tftpd -n "__fish_tftpd_needs_command" -l create-dirs -d 'Make the directories that an upload\'s name needs'
complete -c tftpd -n "__fish_tftpd_needs_command" -l write-only -d 'Let nobody read what was uploaded, or learn that a name is taken: such an upload is stored beside the other, as FILE.~1~'
complete -c tftpd -n "__fish_tftpd_needs_command" -l fsync -d 'Acknowledge the last block of an upload once it is on the disk'
complete -c tftpd -n "__fish_tftpd_needs_command" -l chroot -d 'Make ROOT the only directory the process can see; must be started as root'
complete -c tftpd -n "__fish_tftpd_needs_command" -l no-sandbox -d 'Don\'t confine the process with Landlock'
complete -c tftpd -n "__fish_tftpd_needs_command" -s v -l verbose -d 'Log more: -v also when transfers begin, and what is dropped and why; -vv every packet'
complete -c tftpd -n "__fish_tftpd_needs_command" -s q -l quiet -d 'Log errors only'
complete -c tftpd -n "__fish_tftpd_needs_command" -s c -l create -d 'Let uploads create new files'
complete -c tftpd -n "__fish_tftpd_needs_command" -s s -l secure -d 'Keep clients below ROOT'
complete -c tftpd -n "__fish_tftpd_needs_command" -s j -l jail -d 'Keep clients below ROOT, without a chroot'
complete -c tftpd -n "__fish_tftpd_needs_command" -s l -l listen -d 'Listen without inetd; stays in the foreground here'
complete -c tftpd -n "__fish_tftpd_needs_command" -s L -l foreground -d 'Listen without inetd, in the foreground'
complete -c tftpd -n "__fish_tftpd_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tftpd -n "__fish_tftpd_needs_command" -s V -l version -d 'Print version'
complete -c tftpd -n "__fish_tftpd_needs_command" -a "status" -d 'Show what a running server does'
complete -c tftpd -n "__fish_tftpd_using_subcommand status" -l json -d 'Print the server\'s /status.json'
complete -c tftpd -n "__fish_tftpd_using_subcommand status" -s h -l help -d 'Print help'
