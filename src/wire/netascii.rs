//! Netascii.
