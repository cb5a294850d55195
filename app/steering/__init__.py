"""The live model behind the Steering page: who has it, what is asked of it, the forms, the runs, the evaluation."""
