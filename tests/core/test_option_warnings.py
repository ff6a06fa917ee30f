"""Site options that no site takes are told, since every site leaves out what is not its own."""

from __future__ import annotations

from swm_core.jobscript import parse
from swm_core.terminal.submit import option_warnings
from tests.core.scheduler.builders import lab, queue, slurm

SCRIPT = b"""#!/bin/sh
#SWM site-option slurm.qos=high
#SWM site-option slrum.nice=1
"""


def test_options_of_a_kind_that_no_site_has_are_told() -> None:
    hpc = slurm(queue("q"), option_prefix="slurm", options=frozenset({"qos"}))
    warned = option_warnings(parse(SCRIPT), [lab(), hpc])
    text = 'no site takes options of "slrum", so slrum.nice is not used; did you mean "slurm"?'
    assert [warning.message for warning in warned] == [f"site-option: {text}"]
    assert len(option_warnings(parse(SCRIPT), [lab()])) == 2
    assert option_warnings(parse(SCRIPT), [lab(), slurm(ready=False)]) == []
