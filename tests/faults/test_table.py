"""Where each fault case is tested, part by part; a test that is named here and does not exist fails.

The cases are those of docs/reference/faults.md, which names those without a test. There is no daemon yet, so what a case says of
one is not here: that it coasts while all servers are down (49), freezes when steps add up (56), or notices suspend and resume (59).
"""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CLIENT, TICKETS, INTERRUPTED = "faults/test_client_faults.py", "faults/test_tickets.py", "faults/test_interrupted.py"
NETWORK, SILENCE = "faults/test_network.py", "faults/test_silence_and_names.py"
COMMAND, ADJTIME, BOOTSTRAP = "cli/test_client.py", "cli/test_adjtime.py", "faults/test_bootstrap.py"
SELECTED, SELECTION, SAMPLES = "cli/test_selection.py", "timing/test_selection.py", "conformance/test_samples.py"

WAIT, REAL = "cli/test_adjtime_wait.py", "kernel/test_real_clock.py"

ROUTER, HOSTILE, TRIM = "quic/test_router.py", "quic/test_hostile.py", "quic/aioquic/test_trim.py"
RESETS, REASSEMBLY, ATTACKS = "quic/test_resets.py", "quic/test_reassembly.py", "dataplane/test_attacks.py"
PLANE, SOCKETS, TABLE_OF_SESSIONS = "dataplane/test_session.py", "dataplane/test_sockets.py", "dataplane/test_table.py"
STRANGERS, BATCHES, PROCESSES = "faults/test_server_faults.py", "faults/test_batches.py", "integration/test_processes.py"
MESSAGES, TRANSPORT, SECRECY = "conformance/test_messages.py", "conformance/test_transport.py", "conformance/test_secrecy.py"
SIGNATURES, PRECISION = "conformance/test_signatures.py", "conformance/test_precision.py"
SERVER, SURROUNDINGS, MULTIHOMED = "cli/test_server.py", "cli/test_surroundings.py", "integration/test_multihomed.py"
SERVER_CLOCK = "server/test_clock_watch.py"

# (case, clause, file, names of tests)
TABLE = [
    (1, "three times the bytes", ROUTER, "test_no_more_than_three_times_as_much_goes_to_an_address_that_is_not_validated"),
    (1, "garbage", ROUTER, "test_garbage_of_full_size_leaves_no_state_and_gets_no_more_than_it_brought"),
    (1, "Retry keeps nothing", ROUTER, "test_retry_keeps_no_state"),
    (2, "no reply, nothing is kept", ROUTER, "test_an_initial_under_1200_bytes_is_dropped"),
    (3, "no reply", ROUTER, "test_a_small_datagram_of_an_unknown_version_is_dropped"),
    (3, "a large one is answered", ROUTER, "test_a_large_datagram_of_an_unknown_version_gets_version_negotiation"),
    (4, "no reply", ROUTER, "test_version_negotiation_sent_to_a_server_is_dropped"),
    (5, "Retry above a number", "client/test_channel.py", "test_retry_begins_where_too_many_handshakes_are_open"),
    (5, "also where Initials do not open", HOSTILE, "test_initials_that_do_not_open_make_no_connection_and_turn_retry_on"),
    (5, "without Retry", HOSTILE, "test_without_retry_half_open_connections_are_few_and_the_oldest_go_first"),
    (5, "connected clients are answered", STRANGERS, "test_5_clients_that_are_connected_are_answered_in_a_flood_of_handshakes"),
    (6, "wrong, expired, foreign", STRANGERS,
     "test_6_a_retry_token_that_is_wrong_expired_or_of_another_server_opens_no_connection"),
    (6, "of another address", ROUTER, "test_a_retry_token_is_good_for_its_own_address_only"),
    (7, "one handshake", STRANGERS, "test_7_a_retry_token_that_is_used_again_begins_no_second_handshake"),
    (7, "no limit is passed", STRANGERS, "test_7_a_token_passes_no_limit"),
    (8, "ended, freed", ROUTER, "test_a_handshake_that_is_not_finished_in_time_frees_its_place"),
    (8, "freed", TRIM, "test_a_forgotten_connection_is_gone_without_the_garbage_collector"),
    (9, "time out", SOCKETS, "test_a_silent_connection_is_ended_after_the_idle_timeout"),
    (9, "hard limit", ROUTER, "test_the_number_of_connections_is_capped"),
    (9, "hard limit, counted", SERVER, "test_connections_over_the_limit_are_refused_and_counted"),
    (9, "hard limit, reported", HOSTILE, "test_a_full_server_says_so_seldom_and_counts"),
    (10, "retires: bounded", ATTACKS, "test_a_storm_of_connection_id_changes_leaves_one_session_in_the_table"),
    (10, "retires: bounded", HOSTILE, "test_numbers_of_connection_ids_are_not_remembered_for_ever"),
    (10, "issues: closed", STRANGERS, "test_10_more_connection_ids_than_are_allowed_end_the_connection"),
    (10, "all the time: closed", HOSTILE, "test_a_peer_that_sends_without_end_is_held_to_its_budget_and_then_closed"),
    (11, "bounded", STRANGERS,
     "test_11_a_flood_of_path_challenges_is_answered_by_no_more_packets_than_came_and_nothing_piles_up"),
    (12, "ranges", HOSTILE, "test_initials_with_many_pieces_of_crypto_are_dropped_and_leave_no_connection"),
    (12, "bytes", HOSTILE, "test_one_byte_far_ahead_takes_no_memory_for_what_is_missing"),
    (12, "total of all", REASSEMBLY, "test_all_receivers_of_the_process_share_one_limit"),
    (12, "closed", HOSTILE, "test_a_client_that_sends_crypto_far_ahead_is_closed"),
    (13, "PROTOCOL_VIOLATION", PLANE, "test_a_protocol_error_ends_the_connection_as_without_a_data_plane"),
    (13, "the next number", SOCKETS, "test_the_number_of_the_next_packet_cannot_be_acknowledged_in_the_control_plane_either"),
    (14, "no gain", STRANGERS, "test_14_acknowledging_what_never_arrived_makes_a_server_send_nothing_more"),
    (14, "no larger window", PLANE, "test_a_window_that_was_no_limit_does_not_grow"),
    (15, "few streams", HOSTILE, "test_streams_that_are_never_finished_are_as_many_as_are_allowed"),
    (15, "small windows", HOSTILE, "test_a_stream_in_too_many_pieces_ends_the_connection"),
    (16, "bytes", TRANSPORT, "test_R2_an_endless_request_is_stopped"),
    (16, "number", HOSTILE, "test_streams_that_are_never_finished_are_as_many_as_are_allowed"),
    (16, "ends with its connection", STRANGERS, "test_16_a_stream_that_never_ends_is_gone_with_its_connection"),
    (17, "two requests", TRANSPORT, "test_R2_two_requests_in_one_read_are_malformed_at_fin"),
    (17, "split at every byte", TRANSPORT, "test_R2_request_split_at_every_byte_gets_one_answer"),
    (17, "garbage behind a request", TRANSPORT, "test_R2_garbage_after_the_request_is_malformed_at_fin"),
    (18, "dropped and counted", MESSAGES, "test_R4_malformed_request_in_datagram_mode_is_dropped_and_counted"),
    (18, "by the data plane", PLANE, "test_a_malformed_message_is_counted_acknowledged_and_not_answered"),
    (19, "skipped", MESSAGES, "test_R4_unknown_types_in_a_request_are_skipped"),
    (20, "on a stream", SIGNATURES, "test_R6_server_without_a_key_answers_error_3_on_a_stream"),
    (20, "in Datagram Mode", SIGNATURES, "test_R6_server_without_a_key_is_silent_in_datagram_mode"),
    (21, "cannot be met", PRECISION, "test_R7_mandatory_tlvs_that_do_not_fit_omit_250"),
    (23, "once", ATTACKS, "test_a_0rtt_first_flight_that_is_replayed_yields_no_second_answer"),
    (23, "once", SECRECY, "test_R10_zero_rtt_first_flight_replayed_after_the_exchange_gets_no_second_answer"),
    (23, "a ticket is accepted once", "quic/test_tickets.py", "test_a_store_gives_each_ticket_once"),
    (25, "fails", TRANSPORT, "test_R1_server_refuses_any_other_alpn_and_none"),
    (26, "the client decides", COMMAND, "test_a_wrong_server_name_option_is_a_wrong_name"),
    (27, "clients learn of it", RESETS, "test_fault_a_client_learns_of_a_restart_with_its_next_request"),
    (27, "smaller", RESETS, "test_a_reset_is_smaller_than_what_caused_it_so_that_two_ends_come_to_rest"),
    (27, "clients connect again", PROCESSES, "test_server_started_again_on_its_port_answers_old_sessions_with_a_full_handshake"),
    (27, "in a run", "faults/test_changing_network.py", "test_watch_goes_on_when_the_server_was_started_again"),
    (28, "tells nothing", RESETS, "test_fault_a_reset_tells_nothing_of_connections_that_live"),
    (28, "no flood", RESETS, "test_resets_are_no_flood"),
    (29, "limited, then closed", SOCKETS, "test_fault_a_storm_of_key_updates_ends_the_connection"),
    (29, "a few do no harm", SOCKETS, "test_key_updates_now_and_then_are_no_storm"),
    (30, "key update", SOCKETS, "test_used_up_keys_are_updated_and_the_data_plane_serves_on"),
    (30, "packets that do not open", SOCKETS, "test_too_many_forged_packets_end_the_connection"),
    (30, "the limits", TABLE_OF_SESSIONS, "test_the_limits_are_those_of_rfc_9001"),
    (31, "without an interruption", PROCESSES, "test_hangup_loads_a_renewed_certificate_and_keeps_connections"),
    (31, "under load", "integration/test_load.py", "test_hangups_under_load_cost_no_connection"),
    (31, "unusable: reported, the old one kept", PROCESSES, "test_hangup_with_a_broken_certificate_keeps_the_old_one"),
    (32, "served and reported", SERVER, "test_an_expired_certificate_is_served_and_complained_about"),
    (33, "stratum 0", "server/test_clock_info.py",
     "test_fault_33_an_unsynchronized_clock_is_reported_with_stratum_0_leap_3_and_the_largest_error"),
    (33, "chrony", "host/keepers/test_sync_state.py", "test_fault_33_a_chrony_that_is_not_synchronized_is_stratum_0"),
    (33, "the kernel", "host/keepers/test_sync_state.py", "test_fault_33_a_kernel_that_is_not_synchronized_is_stratum_0"),
    (33, "a real chronyd", "integration/test_truth.py",
     "test_stratum_0_until_chronyd_is_synchronized_then_its_report_and_0_when_it_is_gone"),
    (34, "never sent", PLANE, "test_no_answer_where_the_clock_went_back_before_t2"),
    (34, "never sent", SAMPLES, "test_R8_server_whose_clock_is_stepped_back_gives_no_answer"),
    (35, "dropped and counted", SOCKETS, "test_an_answer_that_cannot_be_sent_costs_the_others_of_its_batch_nothing"),
    (35, "no room", "test_fast_sockets.py", "test_a_full_buffer_takes_what_fits_and_is_no_error"),
    (35, "timers go on", BATCHES, "test_a_send_that_fails_leaves_the_timer_armed"),
    (36, "never queued", "client/test_channel.py", "test_more_requests_than_the_window_takes_never_wait_in_a_queue"),
    (36, "counted", PLANE, "test_with_32_packets_in_flight_there_is_an_ack_only_and_the_answer_counts_as_held_back"),
    (37, "at start", SURROUNDINGS, "test_a_server_with_too_few_open_files_for_its_addresses_says_how_many_it_needs"),
    (37, "none left", SURROUNDINGS, "test_a_server_with_just_enough_open_files_serves_at_all_addresses"),
    (37, "asking about the clock", SERVER_CLOCK,
     "test_fault_37_a_failed_poll_makes_the_clock_unsynchronized_until_the_next_good_poll"),
    (37, "memory: one connection fails", HOSTILE, "test_a_failure_anywhere_ends_the_connection_and_nothing_else"),
    (38, "the address that was asked", MULTIHOMED, "test_answer_comes_from_the_address_that_was_asked"),
    (38, "also without a connection", MULTIHOMED, "test_retry_and_version_negotiation_come_from_the_address_that_was_asked"),
    (39, "validated", SOCKETS, "test_a_migration_is_validated_by_the_control_plane_and_then_served_by_the_data_plane"),
    (39, "answered", ROUTER, "test_a_client_that_moves_to_another_address_is_answered_there"),
    (41, "limited", HOSTILE, "test_failures_that_a_peer_can_repeat_do_not_fill_the_log"),
    (41, "no raw bytes", "test_boundaries.py", "test_packages_with_message_content_cannot_log_it"),
    (42, "wrong nonce", "client/test_exchange.py", "test_a_wrong_nonce_fails_the_oldest_request"),
    (42, "wrong nonce", COMMAND, "test_answers_that_are_all_rejected_say_why"),
    (42, "wrong, missing or repeated nonce", CLIENT, "test_42_an_answer_without_its_nonce_fails_its_exchange_and_no_other"),
    (42, "repeated nonce", CLIENT, "test_42_the_nonce_of_an_earlier_exchange_answers_no_later_one"),
    (42, "exchange failed", "client/test_exchange.py", "test_malformed_fails_the_request_it_came_for"),
    (42, "whatever follows the nonce", "properties/test_tlv.py", "test_messages_behind_a_nonce_are_judged_as_the_oracle_does"),
    (43, "second answer: ignored", "client/test_exchange.py", "test_a_second_answer_is_ignored"),
    (43, "second answer: ignored", "client/test_exchange.py", "test_a_second_answer_does_not_fail_the_next_request"),
    (43, "second answer: ignored", COMMAND, "test_a_second_answer_to_one_request_is_no_sample"),
    (44, "T3 < T2, delay < 0, T4 < T1: reason", "timing/test_sample.py", "test_each_check_has_its_reason"),
    (44, "which reason", "timing/test_sample.py", "test_the_first_check_that_fails_gives_the_reason"),
    (44, "T3 < T2, delay < 0", SAMPLES, "test_R8_implausible_answers_are_discarded_with_their_reason"),
    (44, "T4 < T1", SAMPLES, "test_R8_answer_before_the_request_is_discarded"),
    (44, "and the others count", COMMAND, "test_one_rejected_sample_of_three_is_reported_and_the_others_count"),
    (45, "lost", "client/test_channel.py", "test_half_of_all_datagrams_lost_is_a_right_answer_or_a_clean_time_out"),
    (45, "each and all", "client/test_channel.py", "test_every_request_on_a_bad_link_gets_one_sample_that_is_true_or_has_a_reason"),
    (45, "all at once", CLIENT, "test_45_lost_doubled_reordered_is_a_right_sample_or_none_and_each_request_ends_once"),
    (45, "between processes", CLIENT, "test_45_half_lost_doubled_reordered_between_processes_is_right_or_a_clean_time_out"),
    (45, "doubled, reordered", CLIENT, "test_45_doubled_and_reordered_alone_costs_no_sample"),
    (46, "error <= d/2, inside the bound", CLIENT, "test_46_a_delay_added_one_way_is_an_error_of_half_of_it_and_inside_the_bound"),
    (46, "the printed bound", CLIENT, "test_46_a_delay_one_way_between_processes_is_inside_the_printed_bound"),
    (46, "the printed bound", "report/test_text.py", "test_the_bound_holds_for_the_offset_as_it_is_printed"),
    (46, "error = d/2", SAMPLES, "test_R11_a_delay_in_one_direction_shifts_the_offset_by_half_of_it"),
    (47, "one of four: rejected and named", SELECTION, "test_47_one_liar_of_four_is_rejected_and_named"),
    (47, "two of four: no majority", SELECTION, "test_47_two_liars_of_four_leave_no_majority_and_no_time"),
    (47, "rejected and named", SELECTED, "test_a_liar_among_four_is_named_and_the_time_is_that_of_the_others"),
    (47, "no majority", SELECTED, "test_two_of_four_liars_give_no_time_and_the_status_for_it"),
    (47, "clock untouched", ADJTIME, "test_fault_47_one_liar_of_four_is_named_two_of_four_leave_the_clock_alone"),
    (47, "any number", "simulation/test_sweep.py", "test_no_bound_fails_while_an_honest_majority_is_compared"),
    (48, "bounded", SELECTION, "test_48_a_liar_inside_the_intervals_is_bounded_by_the_root_distance"),
    (48, "bounded", "timing/test_intersection.py", "test_a_liar_inside_cannot_narrow_the_interval_until_it_excludes_the_truth"),
    (48, "bounded, over networks", "simulation/test_sweep.py", "test_no_bound_fails_while_an_honest_majority_is_compared"),
    (49, "exit status", CLIENT, "test_49_all_servers_down_is_no_answer_and_no_table"),
    (49, "in mid-run", CLIENT, "test_49_a_server_that_dies_in_mid_run_leaves_what_it_gave"),
    (49, "exit status, clock untouched", ADJTIME, "test_fault_49_all_servers_down"),
    (50, "Stream Mode", COMMAND, "test_a_server_without_datagrams_is_asked_on_streams_and_that_is_said"),
    (51, "on a network: bounded, message", NETWORK,
     "test_51_where_nothing_comes_back_the_client_ends_in_time_and_suspects_a_firewall"),
    (51, "by the library", NETWORK, "test_51_where_nothing_comes_back_the_library_says_the_same"),
    (51, "rejected: at once, message", NETWORK, "test_51_what_the_network_says_is_reported_at_once"),
    (51, "by the library", NETWORK, "test_51_what_the_network_says_is_reported_at_once_by_the_library_too"),
    (51, "bounded exactly", SILENCE, "test_51_silence_ends_at_the_time_out_neither_sooner_nor_later"),
    (51, "several addresses", SILENCE, "test_51_of_several_silent_addresses_each_has_its_time_and_all_of_them_end"),
    (51, "in mid-run", NETWORK, "test_51_a_network_that_falls_silent_in_mid_run_leaves_what_came_before"),
    (51, "in mid-run", SILENCE,
     "test_51_what_is_blocked_in_mid_run_ends_each_request_at_its_time_out_and_the_connection_at_its_own"),
    (51, "clock untouched", SILENCE, "test_51_tsq_adjtime_leaves_the_clock_alone_where_nothing_comes_back"),
    (51, "message", COMMAND, "test_silence_is_a_time_out_that_suspects_a_firewall"),
    (52, "five messages", CLIENT, "test_52_each_fault_of_a_certificate_has_its_kind_and_no_answer_is_asked_for"),
    (52, "self-signed", COMMAND, "test_a_self_signed_certificate_is_called_that_and_the_advice_works"),
    (52, "unknown CA", COMMAND, "test_an_unknown_authority_is_named_and_the_advice_works"),
    (52, "wrong name", COMMAND, "test_a_wrong_name_tells_the_certificates_names_and_the_advice_works"),
    (52, "expired", COMMAND, "test_an_expired_certificate_tells_its_end_and_our_clock"),
    (52, "not yet valid", COMMAND, "test_a_certificate_of_the_future_tells_its_beginning_and_suspects_our_clock"),
    (53, "refused", ADJTIME, "test_fault_53_insecure_needs_a_second_option_before_any_server_is_queried"),
    (53, "before anybody is asked", CLIENT, "test_53_insecure_asks_nobody_before_it_is_confirmed"),
    (53, "unless confirmed", ADJTIME, "test_fault_53_with_the_second_option_the_clock_is_set_with_a_warning"),
    (53, "neither option alone", ADJTIME, "test_options_that_make_no_sense"),
    (54, "absent, unknown key, bad, not last", CLIENT, "test_54_a_required_signature_that_is_not_right_is_an_answer_discarded"),
    (54, "any other", "conformance/test_signatures.py", "test_R6_client_rejects_a_response_without_a_valid_signature"),
    (54, "absent", "wire/test_signature.py", "test_a_missing_signature_is_refused"),
    (54, "bad", "wire/test_signature.py", "test_a_changed_block_is_refused"),
    (54, "not last", "conformance/test_messages.py", "test_R4_malformed_response_makes_no_valid_sample"),
    (55, "all kinds of text, all outputs", CLIENT, "test_55_metadata_and_a_clocks_name_are_escaped_in_json_and_reach_no_terminal"),
    (55, "an error's reason", CLIENT, "test_55_text_of_an_error_reply_is_shown_escaped_on_a_terminal"),
    (55, "a close's reason", CLIENT, "test_55_text_of_the_reason_for_a_close_is_shown_escaped_on_a_terminal"),
    (55, "a certificate's names", CLIENT, "test_55_names_in_a_certificate_are_escaped"),
    (55, "all at once", CLIENT, "test_55_hostile_text_of_a_server_reaches_no_terminal"),
    (55, "escaped", "report/test_text.py", "test_details_from_the_network_are_escaped_wherever_they_are_shown"),
    (56, "a sample over the limit", CLIENT, "test_56_an_offset_over_the_limit_is_refused_and_is_no_time"),
    (56, "the limit", SAMPLES, "test_R8_the_offset_limit_is_an_option"),
    (56, "setting the clock: refused", ADJTIME, "test_fault_56_an_offset_over_the_limit_is_refused_and_printed"),
    (57, "measures, reports, exit status", ADJTIME, "test_fault_57_without_cap_sys_time_it_measures_reports_and_refuses"),
    (57, "the installed command", ADJTIME, "test_fault_57_the_real_command_without_the_capability"),
    (57, "where it is promised only", ADJTIME, "test_fault_57_a_capability_that_is_shown_but_cannot_be_used"),
    (57, "no call", ADJTIME, "test_the_real_command_makes_no_call_that_sets_a_clock"),
    (58, "refused", ADJTIME, "test_fault_58_another_daemon_owns_the_clock"),
    (58, "the installed command", ADJTIME, "test_fault_58_the_real_command_finds_a_daemon_in_the_process_table"),
    (58, "a dry run says so", ADJTIME, "test_any_user_can_do_a_dry_run_which_prints_what_would_be_refused"),
    (58, "who is one", "host/keepers/test_owner.py", "test_programs_that_keep_a_clock"),
    (
        58,
        "a real chronyd",
        "host/keepers/test_owner.py",
        "test_a_real_chronyd_with_x_owns_nothing_and_one_whose_process_is_hidden_does",
    ),
    (60, "detected while servers are asked", ADJTIME, "test_fault_60_a_clock_that_is_stepped_while_servers_are_asked"),
    (60, "detected before it acts", ADJTIME, "test_fault_60_a_clock_that_another_program_steps_meanwhile"),
    (60, "in an exchange", SAMPLES, "test_R8_answer_before_the_request_is_discarded"),
    (60, "in a slew", WAIT, "test_a_step_by_another_program_is_noticed"),
    (60, "in a slew", WAIT, "test_a_slew_by_another_program_is_noticed_and_left_to_it"),
    (60, "in a slew, a real clock", REAL, "test_a_slew_that_another_program_stops_is_noticed"),
    (60, "after the measurement", WAIT, "test_a_change_between_measuring_and_setting_is_noticed"),
    (61, "DNS changes", NETWORK, "test_61_a_name_that_moves_is_asked_at_its_new_address_by_the_same_process"),
    (61, "DNS changes: resolve again", NETWORK, "test_61_a_name_that_was_lost_is_found_again_by_the_same_process"),
    (61, "DNS changes between runs", NETWORK,
     "test_61_a_name_that_moves_between_runs_is_asked_at_its_new_address_and_a_ticket_of_the_old_one_does_no_harm"),
    (61, "empty", NETWORK, "test_61_a_name_without_an_address_says_why"),
    (61, "IPv6 only", NETWORK, "test_61_a_name_with_ipv6_only_is_asked_there"),
    (61, "one dead address: next address", NETWORK, "test_61_the_next_address_is_asked_where_the_first_is_dead"),
    (61, "all dead", NETWORK, "test_61_where_all_addresses_are_dead_the_error_that_says_most_is_reported"),
    (61, "without root: resolve again", SILENCE, "test_61_each_query_looks_the_name_up_again"),
    (61, "without root: empty", SILENCE, "test_61_an_empty_answer_is_no_address"),
    (61, "without root: IPv6 only", SILENCE, "test_61_ipv6_only"),
    (61, "without root: next address", SILENCE, "test_61_dead_addresses_come_first"),
    (61, "by processes", "integration/test_processes.py", "test_name_with_a_dead_address_is_answered_by_the_next"),
    (61, "message", COMMAND, "test_name_not_found_has_its_own_message_and_status"),
    (61, "message", COMMAND, "test_no_address_of_the_family_asked_for_says_which_family"),
    (62, "era rollover", SAMPLES, "test_R9_samples_are_right_on_both_sides_of_the_era_edge"),
    (62, "era rollover", SAMPLES, "test_R9_an_exchange_across_the_era_edge_is_right"),
    (62, "era rollover", CLIENT, "test_62_the_year_2036_is_uneventful_from_both_sides_and_for_the_selection"),
    (62, "leap second", CLIENT, "test_62_a_leap_second_in_the_midst_of_exchanges_is_in_the_bound_or_discarded"),
    (62, "leap second announced", SELECTION, "test_62_the_leap_indicator_is_that_of_a_majority"),
    (62, "mixed", SELECTION, "test_62_smeared_and_unsmeared_are_not_mixed"),
    (62, "mixed", SELECTION, "test_62_half_smeared_and_half_unsmeared_give_no_time"),
    (62, "mixed", CLIENT, "test_62_smeared_and_unsmeared_servers_give_no_time_together"),
    (63, "off by default", BOOTSTRAP, "test_fault_63_without_the_option_every_certificate_is_refused_and_the_clock_stays"),
    (63, "majority of three, step, full check", BOOTSTRAP,
     "test_fault_63_with_it_a_majority_of_three_sets_the_clock_and_is_checked_again_by_the_new_time"),
    (63, "an old certificate alone", BOOTSTRAP,
     "test_an_expired_certificate_that_was_valid_at_the_claimed_time_does_not_pass_alone"),
    (63, "a floor", BOOTSTRAP, "test_a_time_before_the_package_was_built_is_not_believed_even_of_a_majority"),
    (63, "a pinned key", BOOTSTRAP, "test_a_pinned_key_sets_the_clock_by_one_server_whatever_the_time"),
    (63, "documented", "test_docs.py", "test_commands_print_what_the_page_shows"),
    (64, "no frequency is left wrong", ADJTIME,
     "test_fault_64_killed_in_mid_slew_the_kernel_goes_on_and_no_frequency_is_left_wrong"),
    (64, "the next run", REAL, "test_a_slew_that_is_not_waited_for_is_covered_by_maxerror_and_stopped_by_the_next_run"),
    (65, "damaged", "host/test_saved_time.py", "test_fault_65_a_damaged_file_is_ignored_with_a_warning"),
    (65, "cannot be written", "host/test_saved_time.py", "test_fault_65_a_file_that_cannot_be_read_or_written_costs_a_warning"),
    (65, "damaged, in a bootstrap", BOOTSTRAP, "test_fault_65_a_damaged_state_file_is_ignored_with_a_warning"),
    (65, "cannot be written, in a bootstrap", ADJTIME, "test_fault_65_a_state_file_that_cannot_be_written_is_a_warning"),
    (67, "expired for the client", TICKETS, "test_67_a_ticket_that_the_client_knows_to_be_over_is_a_full_handshake"),
    (67, "by the client's clock", TICKETS, "test_67_days_later_by_the_clients_clock_a_ticket_is_a_full_handshake"),
    (67, "by the server's clock", TICKETS, "test_67_days_later_by_the_servers_clock_a_ticket_is_a_full_handshake"),
    (67, "unknown to the server", TICKETS, "test_67_a_ticket_that_the_server_does_not_know_any_more_is_a_full_handshake"),
    (67, "used already", TICKETS, "test_67_a_ticket_that_was_used_already_is_a_full_handshake"),
    (67, "not used", "quic/test_tickets.py", "test_a_ticket_out_of_its_time_is_not_used"),
    (68, "an answer, byte by byte", CLIENT, "test_68_a_server_that_drips_bytes_does_not_keep_the_client"),
    (68, "a handshake", CLIENT, "test_68_a_server_that_drips_its_handshake_has_the_time_out_for_all_of_it"),
    (69, "tsq-client: in mid-run", COMMAND, "test_ctrl_c_in_mid_run_ends_with_what_there_is"),
    (69, "tsq-client: before an answer", COMMAND, "test_ctrl_c_before_any_answer_exits_130_and_says_so"),
    (69, "tsq-client --watch", SELECTED, "test_watch_on_a_terminal_redraws_and_ends_with_the_final_table"),
    (69, "tsq-client cannot set a clock", "test_boundaries.py", "test_only_the_clock_module_uses_the_compiled_clock_calls"),
    (69, "a step, any line", INTERRUPTED, "test_69_ctrl_c_at_any_line_of_a_step_leaves_it_undone_or_done"),
    (69, "a slew, any line", INTERRUPTED, "test_69_ctrl_c_at_any_line_of_a_slew_leaves_nothing_pending_unless_it_ends_well"),
    (69, "waiting, any line", INTERRUPTED, "test_69_ctrl_c_at_any_line_of_a_slew_that_is_waited_for_gives_up_the_rest"),
    (69, "bootstrap, any line", INTERRUPTED, "test_69_ctrl_c_at_any_line_of_a_bootstrap_puts_the_clock_back_or_finds_it_right"),
    (69, "measuring", ADJTIME, "test_fault_69_an_interrupt_while_servers_are_asked_changes_nothing"),
    (69, "measuring, a part has answered", ADJTIME,
     "test_fault_69_an_interrupted_measurement_does_not_set_the_clock_although_some_servers_have_answered"),
    (69, "in a slew", ADJTIME, "test_fault_69_an_interrupt_in_a_slew_gives_up_the_rest"),
    (69, "in a step", ADJTIME, "test_fault_69_a_step_is_never_half_done"),
    (69, "in a bootstrap", BOOTSTRAP, "test_fault_69_an_interrupt_in_any_round_leaves_the_clock_as_it_was"),
]  # fmt: skip
CASES = [*range(1, 22), 23, *range(25, 40), *range(41, 59), *range(60, 66), *range(67, 70)]


def defined_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_tests_and_all_that_are_named_exist(case):
    rows = [(file, name) for number, _, file, name in TABLE if number == case]
    assert rows
    assert [(file, name) for file, name in rows if name not in defined_in(file)] == []


def test_where_a_test_carries_the_number_of_a_case_the_table_sends_who_looks_for_that_case():
    known = {(case, file) for case, _, file, _ in TABLE}
    for path in TESTS.rglob("test_*.py"):
        file = str(path.relative_to(TESTS))
        numbers = {int(found[1]) for found in (re.match(r"test_(?:fault_)?(\d\d?)_", name) for name in defined_in(file)) if found}
        assert {(case, file) for case in numbers if case in CASES} <= known


def test_no_case_is_outside_of_the_list():
    assert {case for case, *_ in TABLE} == set(CASES)


def test_every_number_in_a_tests_name_is_a_case_of_the_documentation():
    page = (TESTS.parent / "docs/reference/faults.md").read_text(encoding="utf-8")
    documented = [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert documented == list(range(1, len(documented) + 1))
    for path in TESTS.rglob("test_*.py"):
        names = defined_in(str(path.relative_to(TESTS)))
        numbers = {int(found[1]) for found in (re.match(r"test_(?:fault_)?(\d\d?)_", name) for name in names) if found}
        assert numbers <= set(documented), path
