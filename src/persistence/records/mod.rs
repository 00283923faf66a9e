//! Workflows as records in a store: their keys and encodings, the commits that write them, and the
//! readers that read them back.

pub(crate) mod audit;
pub(crate) mod backlog;
pub(crate) mod breakers;
pub(crate) mod children;
pub(crate) mod codec;
pub(crate) mod commit_builder;
pub(crate) mod controls;
pub(crate) mod definition;
pub(crate) mod export;
pub(crate) mod keys;
pub(crate) mod member_pages;
pub(crate) mod member_table;
pub(crate) mod meta;
pub(crate) mod reader;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) mod salvage;
pub(crate) mod schedules;
pub(crate) mod starts;
pub(crate) mod steady;
pub(crate) mod updates;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) mod verify;
