//! A held-out part of the records of a data set, and the rest: the same on every rank and in every run with its seed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Which records are held out, and which of the two parts is read.
///
/// Records are sorted by class and, within a class, in an order that follows from the seed; then `held` of every `of` are
/// held out, evenly spaced. So each part has the classes in the proportions of the whole, within one record of each
/// (systematic sampling with implicit stratification; Cochran, *Sampling Techniques*, chapter 8), and the parts of a
/// cross-validation differ by one record at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    held: u64,
    of: u64,
    /// Position of the first held-out record among `of`, counted back from the last.
    shift: u64,
    seed: u64,
    /// Whether classes keep their proportions.
    stratify: bool,
    /// Whether the held-out records are read, or the rest.
    held_out: bool,
}

impl Part {
    /// Holds out a fraction of the records, rounded to a millionth; above 0, at most 0.5.
    pub fn fraction(fraction: f64, seed: u64, stratify: bool) -> Part {
        let of = 1_000_000;
        Part { held: (fraction * of as f64).round() as u64, of, shift: 0, seed, stratify, held_out: false }
    }

    /// Holds out the `fold`-th, from 1, of `folds` parts.
    pub fn fold(fold: usize, folds: usize, seed: u64, stratify: bool) -> Part {
        Part { held: 1, of: folds as u64, shift: (folds - fold) as u64, seed, stratify, held_out: false }
    }

    /// Returns the same division with the held-out records as the part to read.
    #[must_use]
    pub fn held_out(self) -> Part {
        Part { held_out: true, ..self }
    }

    pub fn is_held_out(self) -> bool {
        self.held_out
    }

    /// Keeps the records of this part, in their order. Records of a group are in the same part; the only record of a
    /// class is never held out.
    ///
    /// # Errors
    /// Says why a part has no record.
    pub(super) fn select<R: Divisible>(self, records: Vec<R>) -> Result<Vec<R>, String> {
        let (units, count) = units(&records);
        let (held, divided) = self.held(&records, &units, count);
        let what = || match count == records.len() {
            true => format!("{count} record{}", if count == 1 { "" } else { "s" }),
            false => format!("{} records in {count} groups", records.len()),
        };
        match (held.iter().filter(|&&held| held).count(), self.held) {
            // Where one fold is empty, all of them are refused.
            (_, 1) if divided < self.of as usize => {
                return Err(format!("{} cannot be divided into {} parts: use fewer", what(), self.of));
            }
            (0, held) => {
                let fraction = held as f64 / self.of as f64;
                return Err(format!("the fraction {fraction} of {} is none: hold out more", what()));
            }
            _ => {}
        }
        let mut units = units.into_iter();
        Ok(records.into_iter().filter(|_| units.next().is_some_and(|unit| held[unit] == self.held_out)).collect())
    }

    /// Returns for each unit whether it is held out, and the number of those that may be.
    fn held<R: Divisible>(self, records: &[R], units: &[usize], count: usize) -> (Vec<bool>, usize) {
        let classes = if self.stratify { rarest(records) } else { vec![""; records.len()] };
        let mut order: Vec<(&str, [u8; 16], usize)> = Vec::with_capacity(count);
        for (&unit, class) in units.iter().zip(classes) {
            if unit == order.len() {
                let hash = blake3::hash(format!("part {} {unit}", self.seed).as_bytes());
                order.push((class, hash.as_bytes()[..16].try_into().expect("16 bytes"), unit));
            }
        }
        order.sort_unstable();
        let alone = |i: usize| {
            let class = order[i].0;
            self.stratify
                && !class.is_empty()
                && (i == 0 || order[i - 1].0 != class)
                && order.get(i + 1).is_none_or(|next| next.0 != class)
        };
        let mut held = vec![false; count];
        let shared: Vec<usize> = (0..order.len()).filter(|&i| !alone(i)).collect();
        for (place, &i) in (self.shift..).zip(&shared) {
            let taken = |n: u64| n * self.held / self.of;
            held[order[i].2] = taken(place + 1) > taken(place);
        }
        (held, shared.len())
    }
}

/// Returns the unit of each record, counted from 0 in the order of their first records, and the number of units. A unit
/// is a record, or the records of a group.
fn units<R: Divisible>(records: &[R]) -> (Vec<usize>, usize) {
    let (mut groups, mut count) = (HashMap::new(), 0);
    let mut next = || {
        count += 1;
        count - 1
    };
    let unit = |record| match R::group(record).map(|group| groups.entry(group)) {
        Some(Entry::Occupied(unit)) => *unit.get(),
        Some(Entry::Vacant(place)) => *place.insert(next()),
        None => next(),
    };
    (records.iter().map(unit).collect(), count)
}

/// Returns for each record the rarest of its labels, empty without labels.
fn rarest<R: Divisible>(records: &[R]) -> Vec<&str> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    records.iter().flat_map(R::labels).for_each(|label| *counts.entry(label).or_default() += 1);
    records
        .iter()
        .map(|record| record.labels().min_by_key(|label| (counts[label], *label)).unwrap_or_default())
        .collect()
}

/// What a [`Part`] asks about a record.
pub(super) trait Divisible {
    /// The labels, which keep their proportions.
    fn labels(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// What other records share with this one, so that they may not be in different parts.
    fn group(&self) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct One(usize, Vec<&'static str>, Option<&'static str>);

    impl Divisible for One {
        fn labels(&self) -> impl Iterator<Item = &str> {
            self.1.iter().copied()
        }

        fn group(&self) -> Option<&str> {
            self.2
        }
    }

    fn ids(part: Part, records: &[One]) -> Vec<usize> {
        part.select(records.to_vec()).unwrap().iter().map(|one| one.0).collect()
    }

    /// 1000 records of which a tenth is "b", and one is "c".
    fn thousand() -> Vec<One> {
        (0..1000)
            .map(|i| {
                One(
                    i,
                    vec![if i == 77 {
                        "c"
                    } else if i % 10 == 0 {
                        "b"
                    } else {
                        "a"
                    }],
                    None,
                )
            })
            .collect()
    }

    #[test]
    fn a_fraction_keeps_the_proportions_of_the_classes() {
        let records = thousand();
        for (fraction, expected) in [(0.1, 99..=100), (0.25, 249..=250), (0.003, 2..=3)] {
            let part = Part::fraction(fraction, 7, true);
            let (rest, held) = (ids(part, &records), ids(part.held_out(), &records));
            assert!(expected.contains(&held.len()) && rest.len() + held.len() == 1000, "{fraction}: {}", held.len());
            assert!(held.iter().all(|id| !rest.contains(id)) && held.is_sorted() && rest.is_sorted());
            let of_b = held.iter().filter(|&&id| id % 10 == 0).count() as f64;
            assert!((of_b - 100.0 * fraction).abs() <= 1.0, "{fraction}: {of_b} of class b");
            assert!(rest.contains(&77), "the only record of a class is for training");
        }
        let other = Part::fraction(0.1, 8, true).held_out();
        assert_ne!(ids(other, &records), ids(Part::fraction(0.1, 7, true).held_out(), &records), "another seed");
    }

    #[test]
    fn folds_divide_the_records_evenly() {
        for (n, folds) in [(1000, 5), (17, 4), (10, 9)] {
            let records: Vec<One> = thousand().into_iter().filter(|one| one.0 != 77).take(n).collect();
            let mut seen = Vec::new();
            for fold in 1..=folds {
                let part = Part::fold(fold, folds, 3, true);
                let held = ids(part.held_out(), &records);
                assert!(held.len().abs_diff(records.len() / folds) <= 1, "{n} in {folds}: {}", held.len());
                assert_eq!(ids(part, &records).len(), records.len() - held.len());
                seen.extend(held);
            }
            // The only "b" of the first ten is always trained on.
            let once: Vec<usize> = records.iter().map(|one| one.0).filter(|&id| n > 10 || id != 0).collect();
            seen.sort_unstable();
            assert_eq!(seen, once);
        }
    }

    #[test]
    fn groups_are_not_divided_and_rare_labels_are_trained_on() {
        let groups = ["x", "y", "z"];
        let records: Vec<One> = (0..30).map(|i| One(i, vec![], Some(groups[i % 3]))).collect();
        let held = ids(Part::fold(2, 3, 1, false).held_out(), &records);
        assert!(held.len() == 10 && held.iter().all(|id| id % 3 == held[0] % 3), "{held:?}");
        let many: Vec<One> = (0..40).map(|i| One(i, if i < 4 { vec!["a", "r"] } else { vec!["a"] }, None)).collect();
        for fold in 1..=4 {
            let held = ids(Part::fold(fold, 4, 5, true).held_out(), &many);
            assert_eq!(held.iter().filter(|&&id| id < 4).count(), 1, "{held:?}");
        }
    }

    #[test]
    fn a_part_without_records_is_an_error() {
        let few: Vec<One> = thousand().into_iter().take(8).collect();
        for fold in [1, 9] {
            let message = Part::fold(fold, 9, 1, false).select(few.clone()).unwrap_err();
            assert_eq!(message, "8 records cannot be divided into 9 parts: use fewer");
        }
        let message = Part::fraction(0.01, 1, true).held_out().select(few.clone()).unwrap_err();
        assert_eq!(message, "the fraction 0.01 of 8 records is none: hold out more");
        let message = Part::fraction(0.5, 1, true).select(few[..1].to_vec()).unwrap_err();
        assert_eq!(message, "the fraction 0.5 of 1 record is none: hold out more");
    }
}
