//! The values of an event's extra columns. A few of them lie in the event itself, so that reading a
//! row of a usual table allocates nothing.

use std::ops::{Deref, DerefMut};

use crate::outbox::TextValue;

/// The most values without memory of their own.
const FEW: usize = 4;

/// A slice of values, of which each may be null.
#[derive(Debug, Clone)]
pub struct Extras<'a>(Values<'a>);

#[derive(Debug, Clone)]
enum Values<'a> {
    /// So many of these.
    Few(usize, [Option<TextValue<'a>>; FEW]),
    Many(Box<[Option<TextValue<'a>>]>),
}

impl<'a> Extras<'a> {
    /// So many nulls.
    #[inline(always)]
    pub(crate) fn nulls(count: usize) -> Self {
        Extras(match count {
            // This writes least.
            0 => Values::Many(Box::default()),
            1..=FEW => Values::Few(count, [None; FEW]),
            _ => Values::Many(vec![None; count].into()),
        })
    }
}

impl<'a> Deref for Extras<'a> {
    type Target = [Option<TextValue<'a>>];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Values::Few(count, values) => values.get(..*count).unwrap_or_default(),
            Values::Many(values) => values,
        }
    }
}

impl DerefMut for Extras<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        match &mut self.0 {
            Values::Few(count, values) => values.get_mut(..*count).unwrap_or_default(),
            Values::Many(values) => values,
        }
    }
}

impl<'a> From<&[Option<TextValue<'a>>]> for Extras<'a> {
    fn from(values: &[Option<TextValue<'a>>]) -> Self {
        let mut extras = Extras::nulls(values.len());
        extras.copy_from_slice(values);
        extras
    }
}

impl<'a, const N: usize> From<[Option<TextValue<'a>>; N]> for Extras<'a> {
    fn from(values: [Option<TextValue<'a>>; N]) -> Self {
        Extras::from(values.as_slice())
    }
}

impl PartialEq for Extras<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Extras<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_values_is_kept() {
        for count in 0..FEW + 3 {
            let mut extras = Extras::nulls(count);
            assert_eq!(*extras, *vec![None; count]);
            for (at, value) in extras.iter_mut().enumerate() {
                let text = ["a", "b"][at % 2];
                *value = (at > 0).then_some(TextValue::Text(text));
            }
            let copy = Extras::from(&*extras);
            assert!(copy == extras && copy.len() == count);
            let last = copy.last().copied().flatten();
            assert_eq!(last.is_some(), count > 1, "{count}");
        }
    }
}
