//! Where a file is below.

use std::ops::Deref;
use std::sync::Arc;

use super::LowerRef;

/// The places of a file in lower layers, top first: nearly always one or none, which are kept without an allocation.
#[derive(Debug, Clone, Default)]
pub(crate) enum Lowers {
    #[default]
    None,
    One(LowerRef),
    Several(Arc<[LowerRef]>),
}

impl Deref for Lowers {
    type Target = [LowerRef];

    fn deref(&self) -> &[LowerRef] {
        match self {
            Self::None => &[],
            Self::One(place) => std::slice::from_ref(place),
            Self::Several(places) => places,
        }
    }
}

impl From<Vec<LowerRef>> for Lowers {
    fn from(mut places: Vec<LowerRef>) -> Self {
        match places.len() {
            0 | 1 => places.pop().map_or(Self::None, Self::One),
            _ => Self::Several(places.into()),
        }
    }
}

impl FromIterator<LowerRef> for Lowers {
    fn from_iter<I: IntoIterator<Item = LowerRef>>(places: I) -> Self {
        places.into_iter().collect::<Vec<_>>().into()
    }
}
