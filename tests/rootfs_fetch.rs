//! rootfs-fetch from outside.
