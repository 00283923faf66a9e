//! The backlog: which workflows are live, lane by lane, and which have to wait.

use std::collections::{BTreeSet, HashMap};

/// The number of a lane: of what starts in one queue.
pub(crate) type Lane = usize;

/// So many lanes are kept, idle ones among them; when there are more, the idle ones are let go.
const KEPT_LANES: usize = 64;

/// Who waits is in the store, not in here.
///
/// Invariant: no workflow waits for ever in a lane that has a place: it is [wanted](Self::room) as
/// soon as the store shows it.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// How many places each lane has: its own, so that one whose tasks do not come to an end keeps
    /// nobody else from starting.
    places: usize,
    /// By number; `None` where one was let go.
    lanes: Vec<Option<State>>,
    /// Numbers that are free.
    free: Vec<Lane>,
    numbers: HashMap<String, Lane>,
    /// At so many lanes the idle ones are let go.
    most: usize,
    /// The lanes of which there may be some in the store.
    waiting: BTreeSet<Lane>,
}

#[derive(Debug)]
struct State {
    name: String,
    /// More than there are places, where workflows came in that could not be kept waiting.
    live: usize,
    /// Put to wait, but not yet to be seen in the store.
    arriving: usize,
    /// The last turn that was taken: who waits, waits behind it. What has been deleted before it is
    /// not to be passed over again at each look.
    taken: Option<Vec<u8>>,
}

impl Backlog {
    pub(crate) fn new(places: usize) -> Self {
        assert!(places > 0, "without a place nothing would ever run");
        Self {
            places,
            lanes: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::new(),
            most: KEPT_LANES,
            waiting: BTreeSet::new(),
        }
    }

    /// The number of the lane of this name. It is the lane's for as long as a workflow is live in
    /// it, or waits; and until the next is asked for.
    pub(crate) fn lane(&mut self, name: &str) -> Lane {
        if let Some(lane) = self.numbers.get(name) {
            return *lane;
        }
        if self.numbers.len() >= self.most {
            self.free_idle_lanes();
        }
        let lane = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            self.lanes.len() - 1
        });
        self.numbers.insert(name.to_owned(), lane);
        self.lanes[lane] = Some(State {
            name: name.to_owned(),
            live: 0,
            arriving: 0,
            taken: None,
        });
        lane
    }

    /// Lets go of the idle lanes. Rare enough to cost nothing each time that one is added.
    fn free_idle_lanes(&mut self) {
        for (lane, state) in self.lanes.iter_mut().enumerate() {
            let is_idle = |state: &mut State| state.live == 0 && state.arriving == 0;
            if !self.waiting.contains(&lane)
                && let Some(idle) = state.take_if(is_idle)
            {
                self.numbers.remove(&idle.name);
            }
        }
        let used = self.lanes.iter().rposition(Option::is_some);
        self.lanes.truncate(used.map_or(0, |last| last + 1));
        self.lanes.shrink_to_fit();
        self.numbers.shrink_to_fit();
        let lanes = 0..self.lanes.len();
        self.free = lanes.filter(|lane| self.lanes[*lane].is_none()).collect();
        self.most = (2 * self.numbers.len()).max(KEPT_LANES);
    }

    fn state(&self, lane: Lane) -> &State {
        let state = self.lanes[lane].as_ref();
        state.expect("a lane is kept while somebody is in it")
    }

    fn state_mut(&mut self, lane: Lane) -> &mut State {
        let state = self.lanes[lane].as_mut();
        state.expect("a lane is kept while somebody is in it")
    }

    pub(crate) fn name(&self, lane: Lane) -> &str {
        &self.state(lane).name
    }

    /// The last turn of a lane that was taken.
    pub(crate) fn last_taken(&self, lane: Lane) -> Option<&Vec<u8>> {
        self.state(lane).taken.as_ref()
    }

    /// From now on the lane is looked through from this turn on.
    pub(crate) fn take_from(&mut self, lane: Lane, turn: Vec<u8>) {
        self.state_mut(lane).taken = Some(turn);
    }

    /// A workflow wants to start; says whether it may at once. If not it is put to wait.
    pub(crate) fn submitted(&mut self, lane: Lane) -> bool {
        // Not past those that were there before.
        let free = self.has_capacity(lane)
            && self.state(lane).arriving == 0
            && !self.waiting.contains(&lane);
        let state = self.state_mut(lane);
        match free {
            true => state.live += 1,
            false => state.arriving += 1,
        }
        free
    }

    /// A workflow is live, whether there was a place or not: it came in, or was so before a restart.
    pub(crate) fn admit_live(&mut self, lane: Lane) {
        self.state_mut(lane).live += 1;
    }

    /// A workflow that waits, of another lane before, is put into this one.
    pub(crate) fn requeue(&mut self, lane: Lane) {
        self.state_mut(lane).arriving += 1;
    }

    /// The store shows one that was put to wait.
    pub(crate) fn arrived(&mut self, lane: Lane) {
        let state = self.state_mut(lane);
        state.arriving = state.arriving.saturating_sub(1);
        self.waiting.insert(lane);
    }

    /// Workflows wait in the store: it has just been opened.
    pub(crate) fn note_stored(&mut self, lane: Lane) {
        self.waiting.insert(lane);
    }

    /// A live one has ended.
    pub(crate) fn ended(&mut self, lane: Lane) {
        let state = self.state_mut(lane);
        state.live = state.live.saturating_sub(1);
    }

    /// The store has no more that wait in this lane.
    pub(crate) fn mark_drained(&mut self, lane: Lane) {
        self.waiting.remove(&lane);
    }

    pub(crate) fn has_capacity(&self, lane: Lane) -> bool {
        self.state(lane).live < self.places
    }

    /// The lanes in which there are both: places, how many, and workflows that wait for one.
    pub(crate) fn free_capacity(&self) -> Vec<(Lane, usize)> {
        let waiting = self.waiting.iter();
        let room = waiting.map(|lane| (*lane, self.places.saturating_sub(self.state(*lane).live)));
        room.filter(|(_, room)| *room > 0).collect()
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
                for (lane, room) in backlog.free_capacity() {
                    for _ in 0..room {
                        let Some(next) = world.stored.pop_front() else {
                            backlog.mark_drained(lane);
                            break;
                        };
                        backlog.admit_live(lane);
                        world.live.push(next);
                        started.push(next);
                    }
                }
                assert!(world.live.len() <= places, "{places} {story}");
                assert!(backlog.has_capacity(other), "a lane takes another's place");
            }
            assert!(started.into_iter().eq(0..submitted), "{places} {story}");
        }
    }

    #[test]
    fn lanes_that_nobody_is_in_are_let_go_and_the_others_keep_their_numbers() {
        let mut backlog = Backlog::new(1);
        let live = backlog.lane("live");
        backlog.admit_live(live);
        let waits = backlog.lane("waits");
        backlog.note_stored(waits);
        backlog.take_from(waits, vec![7]);
        let arrives = backlog.lane("arrives");
        backlog.requeue(arrives);
        for name in 0..10_000 {
            let lane = backlog.lane(&name.to_string());
            assert_eq!(
                backlog.last_taken(lane),
                None,
                "what another lane has taken"
            );
            assert!(backlog.submitted(lane));
            backlog.take_from(lane, vec![1]);
            backlog.ended(lane);
        }
        assert!(backlog.lanes.len() <= KEPT_LANES && backlog.numbers.len() <= KEPT_LANES);
        assert_eq!(backlog.lane("live"), live);
        assert_eq!(backlog.lane("waits"), waits);
        assert_eq!(backlog.lane("arrives"), arrives);
        assert!(!backlog.has_capacity(live));
        assert_eq!(backlog.free_capacity(), [(waits, 1)]);
        assert_eq!(backlog.last_taken(waits), Some(&vec![7]));
    }
}
