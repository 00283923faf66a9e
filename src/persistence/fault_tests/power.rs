//! Power cuts: what a process has written to a block device is recorded, write by write and flush by flush.
//! A cut takes from it what was not flushed: all of it, or some writes, whole or by sectors. What is left is
//! mounted, and the store in it opened.
//!
//! The store has been through some checkpoints before, so that sled uses space again. Needs root.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::device::{Device, Disk, Event, succeeds};
use super::kill::{Process, acked, live_and_be_killed};
use super::*;

/// How many cuts with each engine on each file system; more with `CHORDAL_POWER_CUTS`.
const CUTS: u64 = 3;
/// So many are made of what one process has written.
const CUTS_OF_ONE: u64 = 40;
/// How many rounds there are in the store before anything is recorded, and how many are then.
const ROUNDS: (u64, u64) = (160, 80);

/// File systems by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// Makes one on a new disk.
    fn make(self) -> Result<Device, String> {
        let (megabytes, args): (u64, &[&str]) = match self {
            // A superblock of two sectors with a checksum over both would be lost when it is torn.
            FileSystem::Ext4 => (
                256,
                &[
                    "mkfs.ext4",
                    "-q",
                    "-F",
                    "-E",
                    "nodiscard",
                    "-O",
                    "^metadata_csum",
                ],
            ),
            FileSystem::Xfs => (320, &["mkfs.xfs", "-q", "-f", "-K"]),
            FileSystem::Btrfs => (256, &["mkfs.btrfs", "-q", "-f", "-K"]),
        };
        let device = Device::new(Disk::new(megabytes))?;
        succeeds(Command::new(args[0]).args(&args[1..]).arg(device.file()))?;
        Ok(device)
    }

    /// As little as possible is written that is not asked for: not every 5 seconds, as it would be.
    fn options(self) -> &'static str {
        match self {
            FileSystem::Ext4 | FileSystem::Btrfs => "loop,commit=300",
            FileSystem::Xfs => "loop",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The file system of a device, mounted for as long as this lives.
struct Mount(TempDir);

impl Mount {
    fn new(system: FileSystem, device: &Device) -> Result<Self, String> {
        let at = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-o", system.options()]).arg(device.file());
        succeeds(mount.arg(at.path()))?;
        Ok(Self(at))
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("store")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let umount = |args: &[&str]| succeeds(Command::new("umount").args(args).arg(self.0.path()));
        // A thread of a store that was dropped may have a file open for a moment.
        let done = umount(&[]).or_else(|_| umount(&["-l"]));
        assert!(std::thread::panicking() || done.is_ok(), "{done:?}");
    }
}

/// Ends with what is tried, however that ends.
struct Living(Child);

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one process has done to a disk.
struct Recording {
    before: Disk,
    /// The last round that was acknowledged before.
    begun: u64,
    events: Vec<Event>,
    /// Behind how many events a round was known to be acknowledged.
    acks: Vec<(usize, u64)>,
}

impl Recording {
    fn make(engine: Engine, system: FileSystem) -> Result<Self, String> {
        let device = system.make()?;
        let process = |mounted: &Mount| {
            let process = Process::new(engine, &mounted.home()).for_power();
            process.load(Load::Large)
        };
        let mounted = Mount::new(system, &device)?;
        // The next one opens what a kill has left.
        let begun = live_and_be_killed(process(&mounted), ROUNDS.0);
        drop(mounted);
        let before = device.disk();
        device.record();
        let mounted = Mount::new(system, &device)?;
        let mut process = process(&mounted).rounds(ROUNDS.1);
        let mut living = Living(process.command().stderr(Stdio::null()).spawn().unwrap());
        let lines = BufReader::new(living.0.stdout.take().unwrap()).lines();
        let rounds = lines.filter_map(|line| acked(&line.unwrap()));
        let acks = rounds.map(|round| (device.recorded(), round)).collect();
        drop(living);
        let events = device.events();
        drop(mounted);
        Ok(Self {
            before,
            begun,
            events,
            acks,
        })
    }

    /// Cuts the power somewhere, and opens what is left; then once more somewhere in that opening. Returns
    /// whether the file system has outlived that: one with a checksum over several sectors of its superblock
    /// may not, whatever is in it.
    fn cut(
        &self,
        engine: Engine,
        system: FileSystem,
        dice: &mut impl FnMut(usize) -> usize,
    ) -> Result<bool, String> {
        let at = dice(self.events.len() + 1);
        let known = self.acks.iter().take_while(|(ack, _)| *ack <= at).last();
        let acked = known.map_or(self.begun, |(_, round)| *round);
        let left = self.before.cut(&self.events[..at], dice);
        // What the opening has done to the disk.
        let opened = |disk: Disk| -> Result<Option<Vec<Event>>, String> {
            let device = Device::new(disk)?;
            device.record();
            let Ok(mounted) = Mount::new(system, &device) else {
                return Ok(None);
            };
            left_whole(engine, Load::Large, &mounted.home(), acked)?;
            drop(mounted);
            Ok(Some(device.events()))
        };
        let of =
            |events: &[Event]| format!("of {} events, {acked} rounds acknowledged", events.len());
        let written = opened(left.clone())
            .map_err(|why| format!("cut behind {at} {}: {why}", of(&self.events)))?;
        let Some(written) = written else {
            return Ok(false);
        };
        let again = dice(written.len() + 1);
        opened(left.cut(&written[..again], dice))
            .map(|events| events.is_some())
            .map_err(|why| format!("cut behind {at}, then {again} {}: {why}", of(&written)))
    }
}

fn cuts(engine: Engine, system: FileSystem) {
    let cuts = number("CHORDAL_POWER_CUTS", CUTS);
    if let Err(why) = system
        .make()
        .and_then(|device| Mount::new(system, &device).map(drop))
    {
        eprintln!("SKIPPED: {cuts} power cuts with {engine:?} on {system}: {why}");
        return;
    }
    // Each time others: what is not found in one run may be in the next.
    let seed = std::process::id().into();
    let mut noise = noise(seed).skip(9);
    let mut dice = |sides: usize| (noise.next().unwrap() >> 20) as usize % sides;
    let mut recording = None;
    let mut outlived = 0;
    for done in 0..cuts {
        if done % CUTS_OF_ONE == 0 {
            recording = Some(Recording::make(engine, system).unwrap());
        }
        let recording: &Recording = recording.as_ref().unwrap();
        match recording.cut(engine, system, &mut dice) {
            Ok(has_outlived) => outlived += u64::from(has_outlived),
            Err(why) => panic!("{engine:?} on {system}, after {done} trials: {why}"),
        }
    }
    assert!(
        2 * outlived > cuts,
        "{system} outlived {outlived} of {cuts} cuts"
    );
    eprintln!("{engine:?} on {system}: {outlived} trials with power cuts");
}

#[test]
fn a_power_cut_takes_nothing_from_sled_on_ext4_that_was_acknowledged() {
    cuts(Engine::Sled, FileSystem::Ext4);
}

#[test]
fn a_power_cut_takes_nothing_from_sled_on_xfs_that_was_acknowledged() {
    cuts(Engine::Sled, FileSystem::Xfs);
}

#[test]
fn a_power_cut_takes_nothing_from_sled_on_btrfs_that_was_acknowledged() {
    cuts(Engine::Sled, FileSystem::Btrfs);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_on_ext4_that_was_acknowledged() {
    cuts(Engine::Redb, FileSystem::Ext4);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_on_xfs_that_was_acknowledged() {
    cuts(Engine::Redb, FileSystem::Xfs);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_on_btrfs_that_was_acknowledged() {
    cuts(Engine::Redb, FileSystem::Btrfs);
}
