"""What must survive: the event log, annotations, jobs and versions. All SQL stands here."""
