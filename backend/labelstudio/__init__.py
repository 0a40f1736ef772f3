"""Everything that Label Studio says and hears."""
