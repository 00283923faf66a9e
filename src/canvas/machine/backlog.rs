//! The backlog: which workflows are live, lane by lane, and which have to wait.

use std::collections::HashMap;

/// The number of a lane: of what starts in one queue.
pub(crate) type Lane = usize;

/// Who waits is in the store, not in here.
///
/// Invariant: no workflow waits for ever in a lane that has a place: it is [wanted](Self::room) as
/// soon as the store shows it.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// How many places each lane has: its own, so that one whose tasks do not come to an end keeps
    /// nobody else from starting.
    places: usize,
    lanes: Vec<State>,
    numbers: HashMap<String, Lane>,
}

#[derive(Debug)]
struct State {
    name: String,
    /// More than there are places, where workflows came in that could not be kept waiting.
    live: usize,
    /// Put to wait, but not yet to be seen in the store.
    arriving: usize,
    /// There may be some in the store.
    waiting: bool,
}

impl Backlog {
    pub(crate) fn new(places: usize) -> Self {
        assert!(places > 0, "without a place nothing would ever run");
        Self {
            places,
            lanes: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// The number of the lane of this name.
    pub(crate) fn lane(&mut self, name: &str) -> Lane {
        if let Some(lane) = self.numbers.get(name) {
            return *lane;
        }
        self.numbers.insert(name.to_owned(), self.lanes.len());
        self.lanes.push(State {
            name: name.to_owned(),
            live: 0,
            arriving: 0,
            waiting: false,
        });
        self.lanes.len() - 1
    }

    pub(crate) fn name(&self, lane: Lane) -> &str {
        &self.lanes[lane].name
    }

    /// A workflow wants to start; says whether it may at once. If not it is put to wait.
    pub(crate) fn submitted(&mut self, lane: Lane) -> bool {
        let places = self.places;
        let state = &mut self.lanes[lane];
        // Not past those that were there before.
        let free = state.live < places && state.arriving == 0 && !state.waiting;
        match free {
            true => state.live += 1,
            false => state.arriving += 1,
        }
        free
    }

    /// A workflow is live, whether there was a place or not: it came in, or was so before a restart.
    pub(crate) fn came_in(&mut self, lane: Lane) {
        self.lanes[lane].live += 1;
    }

    /// A workflow that waits, of another lane before, is put into this one.
    pub(crate) fn moved_to(&mut self, lane: Lane) {
        self.lanes[lane].arriving += 1;
    }

    /// The store shows one that was put to wait.
    pub(crate) fn arrived(&mut self, lane: Lane) {
        let state = &mut self.lanes[lane];
        state.arriving = state.arriving.saturating_sub(1);
        state.waiting = true;
    }

    /// Workflows wait in the store: it has just been opened.
    pub(crate) fn found(&mut self, lane: Lane) {
        self.lanes[lane].waiting = true;
    }

    /// A live one has ended.
    pub(crate) fn ended(&mut self, lane: Lane) {
        let state = &mut self.lanes[lane];
        state.live = state.live.saturating_sub(1);
    }

    /// The store has no more that wait in this lane.
    pub(crate) fn is_empty(&mut self, lane: Lane) {
        self.lanes[lane].waiting = false;
    }

    pub(crate) fn has_place(&self, lane: Lane) -> bool {
        self.lanes[lane].live < self.places
    }

    /// The lanes in which there are both: places, how many, and workflows that wait for one.
    pub(crate) fn room(&self) -> Vec<(Lane, usize)> {
        let lanes = self.lanes.iter().enumerate();
        let wanted = lanes.filter(|(_, state)| state.waiting && state.live < self.places);
        wanted
            .map(|(lane, state)| (lane, self.places - state.live))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What is in the store, and on its way there, of one lane.
    #[derive(Default)]
    struct World {
        on_its_way: VecDeque<u32>,
        stored: VecDeque<u32>,
        live: Vec<u32>,
    }

    /// Each digit: a submission, a commit, the end of the oldest live one.
    #[test]
    fn nobody_overtakes_nobody_is_forgotten_and_no_more_are_live_than_places() {
        for (places, story) in (1..=2).flat_map(|p| (0..3u32.pow(9)).map(move |s| (p, s))) {
            let mut backlog = Backlog::new(places);
            let lane = backlog.lane("mail");
            let other = backlog.lane("other");
            let mut world = World::default();
            let (mut started, mut submitted) = (Vec::new(), 0);
            let mut rest = story;
            // In the end all is committed and all comes to an end.
            let steps = (0..9).map(|_| {
                let step = rest % 3;
                rest /= 3;
                step
            });
            for step in steps.chain([1, 2].into_iter().cycle().take(40)) {
                match step {
                    0 => {
                        if backlog.submitted(lane) {
                            world.live.push(submitted);
                            started.push(submitted);
                        } else {
                            world.on_its_way.push_back(submitted);
                        }
                        submitted += 1;
                    }
                    1 => {
                        for one in world.on_its_way.drain(..) {
                            world.stored.push_back(one);
                            backlog.arrived(lane);
                        }
                    }
                    _ if !world.live.is_empty() => {
                        world.live.remove(0);
                        backlog.ended(lane);
                    }
                    _ => {}
                }
                for (lane, room) in backlog.room() {
                    for _ in 0..room {
                        let Some(next) = world.stored.pop_front() else {
                            backlog.is_empty(lane);
                            break;
                        };
                        backlog.came_in(lane);
                        world.live.push(next);
                        started.push(next);
                    }
                }
                assert!(world.live.len() <= places, "{places} {story}");
                assert!(backlog.has_place(other), "a lane takes another's place");
            }
            assert!(started.into_iter().eq(0..submitted), "{places} {story}");
        }
    }
}
