//! Mounting images and containers with shale-ufs.
