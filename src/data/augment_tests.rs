//! Tests of augmentation: rates, what never changes, and what it is a function of.

use super::*;
use crate::data::batch::Batch;
use crate::data::collation::Collation;
use crate::data::dataset::Dataset;
use crate::data::random::RandomKey;
use crate::data::sampler::Sampler;
use crate::text::words::WORD;

const CLS: u32 = 1;
const SEP: u32 = 2;
const MASK: u32 = 3;
const EXAMPLES: usize = 10_000;
const WORDS: usize = 20;

fn changing(data: Dataset, rates: Rates, max_length: usize, alike: bool) -> Dataset {
    data.with_augmentation(Augmentation { rates, seed: 5, max_length, mask: MASK, synonyms: None, alike }, [1; 32])
}

/// Returns examples of 20 words of one token each, all different, between special tokens.
fn texts(rates: Rates) -> Dataset {
    let id = |i: usize, word: usize| (10 + i * WORDS + word) as u32;
    let example = |i: usize| {
        let ids = [CLS].into_iter().chain((0..WORDS).map(|word| id(i, word))).chain([SEP]).collect();
        Example::single(ids, vec![0; WORDS + 2], Label::Class((i % 2) as u32))
    };
    let marks = [&[NO_WORD, FIRST_WORD][..], &[WORD; WORDS - 1], &[NO_WORD]].concat();
    let data = Dataset::new((0..EXAMPLES).map(example), Collation::Plain, [0; 32]);
    changing(data.with_words((0..EXAMPLES).map(|_| marks.clone())), rates, 128, true)
}

/// Returns pairs of texts with words of one to three tokens, of which the first has a label that follows from it.
fn pairs(rates: Rates, max_length: usize, alike: bool) -> Dataset {
    let mut random = SplitMix64::keyed(&[9]);
    let (mut examples, mut all) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let (mut ids, mut segments, mut marks, mut labels) = (vec![CLS], vec![0], vec![NO_WORD], vec![NO_LABEL]);
        for segment in 0..2 {
            for word in 0..1 + random.below(9) {
                // The ids of a word are consecutive, and say which token of it this is.
                let first = 10 + 10 * random.below(500) as u32 + u32::from(word == 0) * 10_000;
                for part in 0..1 + (first / 10) % 3 {
                    ids.push(first + part);
                    segments.push(segment);
                    labels.push(if part == 0 { (first % 7).cast_signed() } else { NO_LABEL });
                    marks.push(if part > 0 { WORD_PART } else { [WORD, FIRST_WORD][usize::from(word == 0)] });
                }
            }
            ids.push(SEP);
            segments.push(segment);
            marks.push(NO_WORD);
            labels.push(NO_LABEL);
        }
        examples.push(Example::single(ids, segments, Label::Tokens(labels)));
        all.push(marks);
    }
    changing(Dataset::new(examples, Collation::Plain, [0; 32]).with_words(all), rates, max_length, alike)
}

/// Returns the fraction of words for which a count of (stored, changed) words stands.
fn fraction(data: &Dataset, count: impl Fn(&[u32], &[u32]) -> usize) -> f64 {
    let of = |i: usize| {
        let changed = data.example(i, 3).ids;
        let inner = |ids: &[u32]| ids[1..ids.len() - 1].to_vec();
        count(&inner(data.ids(i)), &inner(&changed))
    };
    (0..EXAMPLES).map(of).sum::<usize>() as f64 / (EXAMPLES * WORDS) as f64
}

#[test]
fn rates_are_the_requested_ones() {
    let near = |found: f64, expected: f64, what: &str| {
        assert!((found - expected).abs() < 0.01, "{what}: {found}, not {expected}");
    };
    let other = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    for rate in [0.1, 0.35] {
        let delete = texts(Rates { delete: rate, ..Rates::default() });
        near(fraction(&delete, |a, b| a.len() - b.len()), rate, "delete");
        let insert = texts(Rates { insert: rate, ..Rates::default() });
        near(fraction(&insert, |a, b| b.len() - a.len()), rate, "insert");
        let replace = texts(Rates { replace: rate, ..Rates::default() });
        near(fraction(&replace, other), rate, "replace");
        let mask = texts(Rates { mask: rate, ..Rates::default() });
        near(fraction(&mask, |_, b| b.iter().filter(|id| **id == MASK).count()), rate, "mask");
        // A word stays if it is not exchanged with another one, and no other is with it.
        let swap = texts(Rates { swap: rate, ..Rates::default() });
        let others = (WORDS - 1) as f64;
        near(fraction(&swap, other), 1.0 - (1.0 - rate) * (1.0 - rate / others).powf(others), "swap");
    }
    let none = texts(Rates::default());
    assert_eq!(fraction(&none, other), 0.0);
    let all = texts(Rates { mask: 1.0, ..Rates::default() });
    assert_eq!(fraction(&all, other), 1.0);
}

#[test]
fn special_tokens_stay_and_labels_go_with_their_words() {
    let rates = Rates { replace: 0.2, swap: 0.4, delete: 0.4, mask: 0.1, insert: 0.0 };
    for alike in [true, false] {
        let data = pairs(rates, 64, alike);
        let mut changed = 0;
        for i in 0..data.len() {
            let Example { ids, type_ids, lengths, label } = data.example(i, 1);
            changed += usize::from(ids != data.ids(i));
            assert_eq!((lengths, type_ids.len()), (vec![ids.len() as u32], ids.len()));
            let specials: Vec<u32> = ids.iter().copied().filter(|id| *id < MASK).collect();
            assert_eq!(specials, [CLS, SEP, SEP]);
            assert!(type_ids.is_sorted() && ids[0] == CLS && ids[ids.len() - 1] == SEP);
            let middle = ids.iter().position(|id| *id == SEP).unwrap();
            assert!(middle > 1 && middle + 2 < ids.len(), "each text keeps a word: {ids:?}");
            assert_eq!((type_ids[middle], type_ids[middle + 1]), (0, 1));
            let Label::Tokens(labels) = label else { panic!("labels of tokens") };
            assert_eq!(labels.len(), ids.len());
            let replaced = rates.replace > 0.0;
            for (&id, &label) in ids.iter().zip(&labels).filter(|(id, _)| **id > MASK) {
                assert_eq!(label != NO_LABEL, id % 10 == 0, "the first token of each word has the label");
                assert!(replaced || label == NO_LABEL || label == (id % 7).cast_signed());
            }
        }
        assert!(changed > 250, "{changed}");
    }
    let data = pairs(Rates { swap: 0.5, delete: 0.3, ..Rates::default() }, 64, true);
    for i in 0..data.len() {
        let Example { ids, label, .. } = data.example(i, 1);
        let Label::Tokens(labels) = label else { panic!("labels of tokens") };
        let expected = |id: u32| if id > MASK && id.is_multiple_of(10) { (id % 7).cast_signed() } else { NO_LABEL };
        assert!(ids.iter().zip(&labels).all(|(&id, &label)| label == expected(id)), "{ids:?} {labels:?}");
        let parts = |id: u32| 1 + (id / 10) % 3;
        let whole = |at: usize| (0..parts(ids[at])).all(|part| ids.get(at + part as usize) == Some(&(ids[at] + part)));
        assert!((0..ids.len()).all(|at| ids[at] <= MASK || ids[at] % 10 > 0 || whole(at)), "words stay whole: {ids:?}");
    }
}

#[test]
fn a_first_word_that_is_written_differently_keeps_its_place() {
    let is_first = |id: u32| id >= 10_000;
    let rates = Rates { swap: 1.0, replace: 0.5, insert: 0.5, ..Rates::default() };
    let (mut replaced, data) = (0, pairs(rates, 64, false));
    for i in 0..data.len() {
        let ids = data.example(i, 0).ids;
        let texts: Vec<&[u32]> = ids.split(|id| *id < MASK).filter(|text| !text.is_empty()).collect();
        assert_eq!(texts.len(), 2);
        for text in texts {
            let firsts = text.iter().take_while(|id| is_first(**id)).count();
            assert!(firsts > 0 && !text[firsts..].iter().any(|id| is_first(*id)), "{text:?}");
        }
        replaced += usize::from(ids[1] != data.ids(i)[1]);
    }
    assert!((110..190).contains(&replaced), "{replaced}");
    let anywhere = pairs(rates, 64, true);
    assert!((0..anywhere.len()).any(|i| !is_first(anywhere.example(i, 0).ids[1])));
}

#[test]
fn an_example_is_never_empty_and_never_too_long() {
    let gone = texts(Rates { delete: 1.0, ..Rates::default() });
    let kept: Vec<Vec<u32>> = (0..50).map(|i| gone.example(i, 0).ids).collect();
    assert!(kept.iter().all(|ids| ids.len() == 3) && kept.iter().enumerate().any(|(i, ids)| ids[1] != gone.ids(i)[1]));
    let data = pairs(Rates { insert: 1.0, replace: 0.5, ..Rates::default() }, 24, true);
    let stored: Vec<usize> = (0..data.len()).map(|i| data.length(i)).collect();
    let lengths: Vec<usize> = (0..data.len()).map(|i| data.length_in(i, 2)).collect();
    assert!(lengths.iter().zip(&stored).all(|(&now, &before)| now <= before.max(24)));
    assert!(lengths.iter().filter(|now| **now >= 22).count() > 150, "there are words to insert: {lengths:?}");
    let empty = Example::single(vec![CLS, SEP], vec![0; 2], Label::Class(0));
    let empty = Dataset::new([empty], Collation::Plain, [0; 32]).with_words([vec![NO_WORD; 2]]);
    let rates = Rates { replace: 1.0, insert: 1.0, swap: 1.0, delete: 1.0, mask: 1.0 };
    assert_eq!(changing(empty, rates, 8, true).example(0, 0).ids, [CLS, SEP]);
}

#[test]
fn examples_are_a_function_of_seed_epoch_and_index() {
    let rates = Rates { replace: 0.1, insert: 0.1, swap: 0.1, delete: 0.1, mask: 0.1 };
    let data = pairs(rates, 64, true);
    let all = |data: &Dataset, epoch: u64| (0..data.len()).map(|i| data.example(i, epoch)).collect::<Vec<_>>();
    assert_eq!(all(&data, 0), all(&pairs(rates, 64, true), 0));
    let same = all(&data, 0).iter().zip(&all(&data, 1)).filter(|(a, b)| a == b).count();
    assert!(same < 100, "{same} of 300 are the same in two epochs");
    // What the plan of a step knows is what its batch has, at every world size.
    let mut one = Sampler::new(1, &data, 32, 1, 200).unwrap();
    let mut three = Sampler::new(1, &data, 32, 3, 50).unwrap();
    let mut differs = false;
    for step in [0, 9, 10, 25] {
        let plans = [one.plan(step), three.plan(step)];
        assert_eq!((plans[0].tokens, plans[0].epoch), (plans[1].tokens, step / 10));
        let key = RandomKey { seed: 1, step: step + 1, epoch: plans[0].epoch };
        let tokens = |micros: &[Vec<u32>]| -> usize {
            micros.iter().map(|micro| Batch::collate(&data, micro, key).tokens.size1().unwrap() as usize).sum()
        };
        for plan in &plans {
            let batch: usize = plan.shards.iter().map(|micros| tokens(micros)).sum();
            assert_eq!(batch as u64, plan.tokens);
        }
        let samples = plans[0].shards.iter().flatten().flatten();
        differs |= samples.map(|&i| data.length(i as usize)).sum::<usize>() as u64 != plans[0].tokens;
    }
    assert!(differs, "lengths change");
}

#[test]
fn synonyms_replace_and_are_inserted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("synonyms");
    // Words 10 and 11 of the first example; a phrase of two tokens.
    std::fs::write(&path, "10, 7 8\n11 => 9\n").unwrap();
    let forms = |text: &str| Ok([(); 2].map(|()| text.split(' ').map(|id| id.parse().unwrap()).collect()));
    let synonyms = Some(Synonyms::read(&path, forms).unwrap());
    let of = |rates: Rates| {
        let data = texts(rates);
        let augmentation = data.augmentation().unwrap().clone();
        data.with_augmentation(Augmentation { synonyms: synonyms.clone(), ..augmentation }, [2; 32])
    };
    let replaced = of(Rates { replace: 1.0, ..Rates::default() });
    let ids = replaced.example(0, 0).ids;
    assert_eq!((&ids[..4], &ids[4..]), (&[CLS, 7, 8, 9][..], &replaced.ids(0)[3..]));
    assert_eq!(replaced.example(1, 0).ids, replaced.ids(1), "words without synonyms stay");
    let mut inserted = of(Rates { insert: 1.0, ..Rates::default() }).example(0, 0).ids;
    assert!(inserted.windows(2).any(|pair| pair == [7, 8]) && inserted.contains(&9));
    inserted.retain(|id| !(7..10).contains(id));
    assert_eq!(inserted, replaced.ids(0));
}
