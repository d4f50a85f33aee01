# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_tftp_global_optspecs
    string join \n m/mode= blksize= windowsize= option= no-options t/timeout= retries= wait= R/port-range= 4/ipv4 6/ipv6 v/verbose trace q/quiet c= l/literal h/help V/version
end

function __fish_tftp_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tftp_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_tftp_using_subcommand
    set -l cmd (__fish_tftp_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c tftp -n "__fish_tftp_needs_command" -s m -l mode -d 'Transfer mode: octet (binary) or netascii (ascii) [default: octet]' -r
complete -c tftp -n "__fish_tftp_needs_command" -l blksize -d 'Block size to ask for, in bytes [default: 1428]' -r
complete -c tftp -n "__fish_tftp_needs_command" -l windowsize -d 'Window to ask for, in blocks [default: 16]' -r
complete -c tftp -n "__fish_tftp_needs_command" -l option -d 'Another option to ask for; can be repeated' -r
complete -c tftp -n "__fish_tftp_needs_command" -s t -l timeout -d 'Milliseconds to wait for an answer before sending again, or a time such as 5s; doubles each time [default: follows the measured round trip]' -r
complete -c tftp -n "__fish_tftp_needs_command" -l retries -d 'How often to repeat a packet before giving up' -r
complete -c tftp -n "__fish_tftp_needs_command" -l wait -d 'Keep asking a device that doesn\'t answer yet for this long, such as 2m; at least once a second [default: as --retries allows]' -r
complete -c tftp -n "__fish_tftp_needs_command" -s R -l port-range -d 'Local ports to use, one per transfer [default: any]' -r
complete -c tftp -n "__fish_tftp_needs_command" -s c -d 'Run one command of the prompt and exit, such as -c get FILE LOCAL; everything after -c belongs to the command' -r
complete -c tftp -n "__fish_tftp_needs_command" -l no-options -d 'Ask for no options (plain RFC 1350)'
complete -c tftp -n "__fish_tftp_needs_command" -s 4 -l ipv4 -d 'Use IPv4 only'
complete -c tftp -n "__fish_tftp_needs_command" -s 6 -l ipv6 -d 'Use IPv6 only'
complete -c tftp -n "__fish_tftp_needs_command" -s v -l verbose -d 'Say more: what was negotiated, and what was tried'
complete -c tftp -n "__fish_tftp_needs_command" -l trace -d 'Show every packet'
complete -c tftp -n "__fish_tftp_needs_command" -s q -l quiet -d 'Print errors only'
complete -c tftp -n "__fish_tftp_needs_command" -s l -l literal -d 'At the prompt, take a colon in a file name as part of the name'
complete -c tftp -n "__fish_tftp_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tftp -n "__fish_tftp_needs_command" -s V -l version -d 'Print version'
complete -c tftp -n "__fish_tftp_needs_command" -a "get" -d 'Get files'
complete -c tftp -n "__fish_tftp_needs_command" -a "put" -d 'Put files'
complete -c tftp -n "__fish_tftp_needs_command" -a "probe" -d 'Fetch a file, discard it, and say in one line how it went'
complete -c tftp -n "__fish_tftp_using_subcommand get" -s m -l mode -d 'Transfer mode: octet (binary) or netascii (ascii) [default: octet]' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -l blksize -d 'Block size to ask for, in bytes [default: 1428]' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -l windowsize -d 'Window to ask for, in blocks [default: 16]' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -l option -d 'Another option to ask for; can be repeated' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -s t -l timeout -d 'Milliseconds to wait for an answer before sending again, or a time such as 5s; doubles each time [default: follows the measured round trip]' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -l retries -d 'How often to repeat a packet before giving up' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -l wait -d 'Keep asking a device that doesn\'t answer yet for this long, such as 2m; at least once a second [default: as --retries allows]' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -s R -l port-range -d 'Local ports to use, one per transfer [default: any]' -r
complete -c tftp -n "__fish_tftp_using_subcommand get" -l no-options -d 'Ask for no options (plain RFC 1350)'
complete -c tftp -n "__fish_tftp_using_subcommand get" -s 4 -l ipv4 -d 'Use IPv4 only'
complete -c tftp -n "__fish_tftp_using_subcommand get" -s 6 -l ipv6 -d 'Use IPv6 only'
complete -c tftp -n "__fish_tftp_using_subcommand get" -s v -l verbose -d 'Say more: what was negotiated, and what was tried'
complete -c tftp -n "__fish_tftp_using_subcommand get" -l trace -d 'Show every packet'
complete -c tftp -n "__fish_tftp_using_subcommand get" -s q -l quiet -d 'Print errors only'
complete -c tftp -n "__fish_tftp_using_subcommand get" -s h -l help -d 'Print help'
complete -c tftp -n "__fish_tftp_using_subcommand put" -s m -l mode -d 'Transfer mode: octet (binary) or netascii (ascii) [default: octet]' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -l blksize -d 'Block size to ask for, in bytes [default: 1428]' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -l windowsize -d 'Window to ask for, in blocks [default: 16]' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -l option -d 'Another option to ask for; can be repeated' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -s t -l timeout -d 'Milliseconds to wait for an answer before sending again, or a time such as 5s; doubles each time [default: follows the measured round trip]' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -l retries -d 'How often to repeat a packet before giving up' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -l wait -d 'Keep asking a device that doesn\'t answer yet for this long, such as 2m; at least once a second [default: as --retries allows]' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -s R -l port-range -d 'Local ports to use, one per transfer [default: any]' -r
complete -c tftp -n "__fish_tftp_using_subcommand put" -l no-options -d 'Ask for no options (plain RFC 1350)'
complete -c tftp -n "__fish_tftp_using_subcommand put" -s 4 -l ipv4 -d 'Use IPv4 only'
complete -c tftp -n "__fish_tftp_using_subcommand put" -s 6 -l ipv6 -d 'Use IPv6 only'
complete -c tftp -n "__fish_tftp_using_subcommand put" -s v -l verbose -d 'Say more: what was negotiated, and what was tried'
complete -c tftp -n "__fish_tftp_using_subcommand put" -l trace -d 'Show every packet'
complete -c tftp -n "__fish_tftp_using_subcommand put" -s q -l quiet -d 'Print errors only'
complete -c tftp -n "__fish_tftp_using_subcommand put" -s h -l help -d 'Print help'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l within -d 'The longest it may take, such as 3s or 500ms' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s m -l mode -d 'Transfer mode: octet (binary) or netascii (ascii) [default: octet]' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l blksize -d 'Block size to ask for, in bytes [default: 1428]' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l windowsize -d 'Window to ask for, in blocks [default: 16]' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l option -d 'Another option to ask for; can be repeated' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s t -l timeout -d 'Milliseconds to wait for an answer before sending again, or a time such as 5s; doubles each time [default: follows the measured round trip]' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l retries -d 'How often to repeat a packet before giving up' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l wait -d 'Keep asking a device that doesn\'t answer yet for this long, such as 2m; at least once a second [default: as --retries allows]' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s R -l port-range -d 'Local ports to use, one per transfer [default: any]' -r
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l no-options -d 'Ask for no options (plain RFC 1350)'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s 4 -l ipv4 -d 'Use IPv4 only'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s 6 -l ipv6 -d 'Use IPv6 only'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s v -l verbose -d 'Say more: what was negotiated, and what was tried'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -l trace -d 'Show every packet'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s q -l quiet -d 'Print errors only'
complete -c tftp -n "__fish_tftp_using_subcommand probe" -s h -l help -d 'Print help'
