complete -c tftpd -s p -l port -d 'UDP port to listen on; 0 takes a free one' -r
complete -c tftpd -s a -l address -d 'Address to listen on, repeatable [default: all, IPv4 and IPv6]' -r
complete -c tftpd -s R -l port-range -d 'Ports for transfers, one each [default: any free port above 1023]' -r
complete -c tftpd -s t -l timeout -d 'Milliseconds to wait for an answer before sending again, doubling each time [default: as the measured round trip suggests]' -r
complete -c tftpd -l retries -d 'How often a packet is sent again before the transfer is given up' -r
complete -c tftpd -s B -l max-blksize -d 'Largest block size to agree to, in bytes' -r
complete -c tftpd -l max-windowsize -d 'Largest window to agree to, in blocks' -r
complete -c tftpd -s r -l refuse -d 'Option to treat as unknown, repeatable' -r
complete -c tftpd -l busy-poll -d 'Longest wait for a datagram that is spent awake, in microseconds; only while answers come that fast, 0 never' -r
complete -c tftpd -l max-upload -d 'Largest upload, in bytes or with K, M, G or T [default: no limit]' -r
complete -c tftpd -s U -l umask -d 'Permission bits that new files don\'t get [default: the process\'s own]' -r
complete -c tftpd -s m -l map-file -d 'Rules that make other names of those requested, in tftp-hpa\'s language' -r -F
complete -c tftpd -l map-test -d 'Print what the rules of FILE make of the names on standard input, and serve nothing' -r -F
complete -c tftpd -l per-client-root -d 'Serve each client from a directory of its own below ROOT, named after its address, if there is one; else from ROOT' -r -f -a "ip\t'Its IP address: `192.0.2.1`, `2001:db8::1`'
mac\t'Its hardware address: `aa-bb-cc-dd-ee-ff`'"
complete -c tftpd -l allow -d 'Network to serve, repeatable [default: all]' -r
complete -c tftpd -l deny -d 'Network not to serve, even if allowed; repeatable [default: none]' -r
complete -c tftpd -l max-sessions -d 'Transfers at once; further requests are dropped [default: what the limit on open files allows]' -r
complete -c tftpd -l max-sessions-per-client -d 'Transfers at once with one client; further requests are dropped [default: no limit]' -r
complete -c tftpd -s u -l user -d 'User to run as, and group [default: the user that started it; the user\'s group]' -r
complete -c tftpd -s P -l pid-file -d 'Write the process\'s number to FILE, and remove that at the end' -r -F
complete -c tftpd -l grace -d 'Seconds that running transfers get to finish after SIGTERM or SIGINT' -r
complete -c tftpd -l idle-exit -d 'Seconds without a transfer or a request after which to end [default: never; 900 under inetd]' -r
complete -c tftpd -l log-file -d 'Append the log to FILE instead of standard error' -r -F
complete -c tftpd -l log-format -d 'How a line of the log looks: text, or a JSON object' -r -f -a "text\t'Time, level and text'
json\t'One JSON object'"
complete -c tftpd -l syslog -d 'Log to the syslog, whose socket is /dev/log unless given' -r -F
complete -c tftpd -s 4 -l ipv4 -d 'Listen on IPv4 only'
complete -c tftpd -s 6 -l ipv6 -d 'Listen on IPv6 only'
complete -c tftpd -l single-port -d 'Send every transfer from the port it was asked for on: for clients behind NAT, for containers, firewalls and load balancers'
complete -c tftpd -l reuse-port -d 'Share the port with other servers of the same user that say so too'
complete -c tftpd -l read-only -d 'Refuse every upload'
complete -c tftpd -l overwrite -d 'Let uploads replace existing files'
complete -c tftpd -l ignore-case -d 'Look for a file that isn\'t there under names that differ in the case of their letters'
complete -c tftpd -l chroot -d 'Make ROOT the only directory the process sees; takes root to start'
complete -c tftpd -l no-sandbox -d 'Do without the kernel\'s prohibitions (Landlock)'
complete -c tftpd -s v -l verbose -d 'Log more: -v what is dropped and why, -vv every packet'
complete -c tftpd -s q -l quiet -d 'Log errors only'
complete -c tftpd -s c -l create -d 'Let uploads create files'
complete -c tftpd -s s -l secure -d 'Keep clients below ROOT'
complete -c tftpd -s l -l listen -d 'Listen without inetd; here that stays in the foreground'
complete -c tftpd -s L -l foreground -d 'Listen without inetd, in the foreground'
complete -c tftpd -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tftpd -s V -l version -d 'Print version'
