//! The choices that make a schedule: which message arrives next, and what the link does to it.
//!
//! A run asks for one choice after the other. A schedule is the list of answers, so that it can be repeated, and
//! followed by the next one until there is none.

/// Where the answers come from once the given ones are used up.
enum Source {
    /// Always the first.
    First,
    /// A generator (xorshift64).
    Random(u64),
}

pub(crate) struct Choices {
    given: Vec<usize>,
    source: Source,
    /// What was chosen, of how many.
    taken: Vec<(usize, usize)>,
}

impl Choices {
    /// The schedule that begins with these answers and goes on with the first of each.
    pub(crate) fn given(given: Vec<usize>) -> Self {
        Self { given, source: Source::First, taken: Vec::new() }
    }

    pub(crate) fn random(seed: u64) -> Self {
        let seed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { given: Vec::new(), source: Source::Random(seed), taken: Vec::new() }
    }

    /// One of `count`.
    pub(crate) fn choose(&mut self, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        let choice = match (self.given.get(self.taken.len()), &mut self.source) {
            (Some(given), _) => (*given).min(count - 1),
            (None, Source::First) => 0,
            (None, Source::Random(state)) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                usize::try_from(*state % count as u64).unwrap()
            }
        };
        self.taken.push((choice, count));
        choice
    }

    pub(crate) fn taken(&self) -> Vec<usize> {
        self.taken.iter().map(|(choice, _)| *choice).collect()
    }

    /// The schedule after this one, depth first.
    pub(crate) fn next(mut self) -> Option<Self> {
        while let Some((choice, count)) = self.taken.pop() {
            if choice + 1 < count {
                let mut given = self.taken();
                given.push(choice + 1);
                return Some(Self::given(given));
            }
        }
        None
    }
}

#[test]
fn every_list_of_answers_comes_once() {
    let mut seen = std::collections::BTreeSet::new();
    let mut next = Some(Choices::given(Vec::new()));
    while let Some(mut choices) = next {
        // A first choice decides how many follow.
        for _ in 0..choices.choose(3) {
            choices.choose(2);
        }
        assert!(seen.insert(choices.taken()));
        next = choices.next();
    }
    let expected: [&[usize]; 7] = [&[0], &[1, 0], &[1, 1], &[2, 0, 0], &[2, 0, 1], &[2, 1, 0], &[2, 1, 1]];
    assert!(seen.iter().eq(expected.iter()), "{seen:?}");
}
