# From a unit for an installation by hand (scripts/systemd) to the package's.
# The comment at the top says how to install.
1,/^\[Unit\]/ {
    /^#/d
    /^$/d
}
s|^Description=.*|&\nDocumentation=man:tftpd(8)|
s|/usr/local/bin/tftpd|/usr/sbin/tftpd|
# Running transfers finish while the package is upgraded.
s|^EnvironmentFile=-/etc/default/tftpd$|Environment="TFTPD_OPTIONS=--grace 30"\n&|
/^User=/d
s|^DynamicUser=yes$|User=tftp|
# Uploads take their option, and a directory that the user may write to.
s|^ProtectSystem=strict$|&\nReadWritePaths=-/srv/tftp\nLogsDirectory=tftpd|
