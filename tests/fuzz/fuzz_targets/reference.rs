//! Any text as a reference: what is accepted reads back the same and can be no path out of anywhere.
#![no_main]

use imagetool::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let canonical = reference.canonical();
        // A tag may hold two dots (`d..0`), but no part may be them.
        assert!(canonical.split(['/', ':', '@']).all(|part| part != "..") && canonical.is_ascii());
        assert_eq!(canonical.parse::<Reference>().as_ref(), Ok(&reference));
        assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference));
    }
});
